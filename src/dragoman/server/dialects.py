"""The dialects that a server speaks."""

from collections.abc import Callable
from typing import NamedTuple

from starlette.routing import BaseRoute

from dragoman.dialects import anthropic, responses
from dragoman.dialects.http.codec import EndpointCodec
from dragoman.dialects.http.context import HttpOptions
from dragoman.dialects.http.operation import Operation
from dragoman.dialects.openai import routes as openai
from dragoman.dialects.vendors import arcee, empower, float16, infermatic, scale
from dragoman.gateway.gateway import Gateway
from dragoman.server.settings import DialectName


class Dialect(NamedTuple):
    """One dialect's part of the app."""

    routes: Callable[[Gateway, HttpOptions], list[BaseRoute]]
    vendor_routes: Callable[[Gateway, HttpOptions], list[BaseRoute]]
    """The routes on a host of the dialect's own, on the vendor's own paths."""
    operations: tuple[Operation, ...]
    """`routes` for the OpenAPI document."""
    endpoint_codecs: tuple[EndpointCodec, ...]
    """The codecs of the endpoints that generate."""


def _openai_host_routes(gateway: Gateway, options: HttpOptions) -> list[BaseRoute]:
    """Return all routes of OpenAI's API, which are two dialects here."""
    return [*openai.vendor_routes(gateway, options), *responses.host_routes(gateway, options)]


DIALECTS: dict[DialectName, Dialect] = {
    "infermatic": Dialect(infermatic.routes, infermatic.routes, infermatic.OPERATIONS, infermatic.ENDPOINT_CODECS),
    "openai": Dialect(openai.routes, _openai_host_routes, openai.OPERATIONS, openai.ENDPOINT_CODECS),
    "responses": Dialect(responses.routes, responses.vendor_routes, responses.OPERATIONS, responses.ENDPOINT_CODECS),
    "empower": Dialect(empower.routes, empower.vendor_routes, empower.OPERATIONS, empower.ENDPOINT_CODECS),
    "scale": Dialect(scale.routes, scale.vendor_routes, scale.OPERATIONS, scale.ENDPOINT_CODECS),
    "arcee": Dialect(arcee.routes, arcee.vendor_routes, arcee.OPERATIONS, arcee.ENDPOINT_CODECS),
    "anthropic": Dialect(anthropic.routes, anthropic.vendor_routes, anthropic.OPERATIONS, anthropic.ENDPOINT_CODECS),
    # Its first path part is a deployment's name, so its routes come last.
    "float16": Dialect(float16.routes, float16.vendor_routes, float16.OPERATIONS, float16.ENDPOINT_CODECS),
}

ENDPOINT_CODECS = {codec.name: codec for dialect in DIALECTS.values() for codec in dialect.endpoint_codecs}

OPERATIONS: dict[str, tuple[Operation, ...]] = {name: dialect.operations for name, dialect in DIALECTS.items()}
"""The operations of all dialects, for the OpenAPI document."""


def v1_routes(gateway: Gateway, options: HttpOptions) -> list[BaseRoute]:
    """Return the routes under `/v1` that answer before infermatic's, if the settings choose another dialect there."""
    return openai.v1_routes(gateway, options) if options.v1_dialect == "openai" else []


def documented_operations(v1_dialect: str) -> dict[str, tuple[Operation, ...]]:
    """Return the operations of all dialects, those under `/v1` with the dialect that answers them."""
    if v1_dialect != "openai":
        return OPERATIONS
    taken = {(operation.method, operation.path) for operation in openai.V1_OPERATIONS}
    others = tuple(each for each in OPERATIONS["infermatic"] if (each.method, each.path) not in taken)
    return {**OPERATIONS, "infermatic": others, "openai": (*OPERATIONS["openai"], *openai.V1_OPERATIONS)}
