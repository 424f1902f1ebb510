"""The dialects that a server speaks."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Protocol, cast

from starlette.routing import BaseRoute

from dragoman.dialects import responses
from dragoman.dialects.http.codec import EndpointCodec
from dragoman.dialects.http.context import HttpOptions
from dragoman.dialects.http.operation import Operation
from dragoman.dialects.openai import routes as openai
from dragoman.dialects.registry import REGISTERED_DIALECTS, DialectName
from dragoman.gateway.gateway import Gateway

BuildRoutes = Callable[[Gateway, HttpOptions], list[BaseRoute]]


class Dialect(Protocol):
    """What the module of a dialect has."""

    OPERATIONS: tuple[Operation, ...]
    """`routes` for the OpenAPI document."""
    ENDPOINT_CODECS: tuple[EndpointCodec, ...]
    """The codecs of the endpoints that generate."""

    def routes(self, gateway: Gateway, options: HttpOptions, /) -> list[BaseRoute]:
        """Return the routes beside other dialects."""

    def vendor_routes(self, gateway: Gateway, options: HttpOptions, /) -> list[BaseRoute]:
        """Return the routes on a host of the dialect's own, on the vendor's own paths."""


def _openai_host_routes(gateway: Gateway, options: HttpOptions) -> list[BaseRoute]:
    """Return all routes of OpenAI's API, which are two dialects here."""
    return [*openai.vendor_routes(gateway, options), *responses.host_routes(gateway, options)]


DIALECTS: dict[DialectName, Dialect] = {
    name: cast(Dialect, import_module(f"dragoman.dialects.{dialect.module}"))
    for name, dialect in REGISTERED_DIALECTS.items()
}

HOST_ROUTES: Mapping[DialectName, BuildRoutes] = {
    **{name: dialect.vendor_routes for name, dialect in DIALECTS.items()},
    "openai": _openai_host_routes,
}
"""The routes on a host that serves one dialect only."""

ENDPOINT_CODECS = {codec.name: codec for dialect in DIALECTS.values() for codec in dialect.ENDPOINT_CODECS}

OPERATIONS: dict[str, tuple[Operation, ...]] = {name: dialect.OPERATIONS for name, dialect in DIALECTS.items()}
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
