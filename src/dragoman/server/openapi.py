"""The OpenAPI 3.1 document at `/openapi.json`, generated from the dialects' structs, and Swagger UI at `/docs`."""

import importlib.util
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

import dragoman
from dragoman.dialects.http.jobs import QueuedJobBody
from dragoman.dialects.http.operation import Operation
from dragoman.server.access import AccessControl, RouteClass, Viewer

_SWAGGER_PACKAGE = "swagger_ui"

_DocumentedType: TypeAlias = type[msgspec.Struct] | type[list[Any]]

_DOCUMENT_PATH = "/openapi.json"
_PAGE_PATH = "/docs"

PATHS = (_DOCUMENT_PATH, _PAGE_PATH)

_UNKNOWN_MODEL = "MODEL"
"""Stands in the examples for callers that may know of no model."""

_REFERENCE = "#/components/schemas/{name}"

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><title>dragoman</title><link rel="stylesheet" href="{root}/docs/static/swagger-ui.css">
</head>
<body>
<div id="ui"></div>
<script src="{root}/docs/static/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "{root}/openapi.json", dom_id: "#ui", deepLinking: true})</script>
</body>
</html>
"""

_MODEL_PATH_PARAMETERS = {"deployment", "model", "model_id", "name"}
"""Path parameters of the dialects."""

_STATUS_DESCRIPTIONS = {
    400: "The request cannot be understood or can never succeed",
    401: "No key, or one that is not accepted",
    402: "The account's balance or the key's budget is used up",
    403: "The key may not do this",
    404: "Not found",
    408: "The request waited in the queue for too long, or the model's server did not answer in time",
    409: "The name is taken, or the Idempotency-Key belongs to another request",
    410: "The request was cancelled",
    413: "The body is too large",
    415: "The body has a Content-Encoding that is not supported; `accept-encoding` names those that are",
    422: "Fields are missing, of a wrong type or out of range",
    429: "A limit of the key is reached, or the server is overloaded; `retry-after` says when to try again",
    500: "The engine failed",
    502: "The model's server failed or cannot be reached",
    503: "The server is overloaded, or the model is being loaded; `retry-after` says when to try again",
    504: "The model's server did not answer in time",
    529: "The server is overloaded, or the model is being loaded; `retry-after` says when to try again",
}


_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "A request that is repeated with the same key runs once; its response is stored for a day",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}


_PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": "`respond-async`: queue the request and answer at once (RFC 7240)",
    "schema": {"type": "string", "examples": ["respond-async"]},
}

_WEBHOOK = {
    "name": "x-dragoman-webhook",
    "in": "header",
    "description": "URL that is notified when a queued request has ended",
    "schema": {"type": "string", "maxLength": 2000, "pattern": "^https?://"},
}

_LAST_EVENT_ID = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "In a stream: the id of the last event that was received",
    "schema": {"type": "string", "pattern": "^[0-9]{1,15}$"},
}


class DocumentedFeatures(NamedTuple):
    """Features of a server that add headers to its operations."""

    idempotency: bool = False
    """Responses are stored under an Idempotency-Key."""
    queue: bool = False
    """Requests can be queued with Prefer: respond-async, and on the queue's own routes."""


_NO_FEATURES = DocumentedFeatures()


def routes(
    dialects: Mapping[str, Iterable[Operation]],
    access: AccessControl,
    features: DocumentedFeatures,
    root_path: str = "",
) -> list[BaseRoute]:
    """Return the routes. The examples name a model that the caller may know of. URLs begin with `root_path`."""
    page = HTMLResponse(_PAGE.replace("{root}", root_path))

    async def show_document(viewer: Viewer) -> Response:
        models = access.models_of(viewer)
        described = document(dialects, models[0].id if models else _UNKNOWN_MODEL, features)
        if root_path:
            described["servers"] = [{"url": root_path}]
        return Response(msgspec.json.encode(described), media_type="application/json")

    async def show_page(_viewer: Viewer) -> Response:
        return page

    async def openapi(request: Request) -> Response:
        return await access.respond(request, RouteClass.DOCUMENTATION, show_document)

    async def docs(request: Request) -> Response:
        return await access.respond(request, RouteClass.DOCUMENTATION, show_page)

    return [
        Route(_DOCUMENT_PATH, openapi, methods=["GET"]),
        Route(_PAGE_PATH, docs, methods=["GET"]),
        # The same files for everybody, which say nothing about the server.
        Mount(f"{_PAGE_PATH}/static", StaticFiles(directory=_swagger_files())),
    ]


def document(
    dialects: Mapping[str, Iterable[Operation]], model: str, features: DocumentedFeatures = _NO_FEATURES
) -> dict[str, Any]:
    """Return the document. The examples request `model`."""
    operations = [(tag, operation) for tag, listed in dialects.items() for operation in listed]
    types = list(
        dict.fromkeys([QueuedJobBody, *(struct for _, operation in operations for struct in _structs(operation))])
    )
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    by_type = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for tag, operation in operations:
        described = _operation(tag, operation, by_type, model)
        if operation.generates:
            _add_optional_headers(described, operation, by_type, features)
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    return {
        "openapi": "3.1.0",
        "info": {"title": "dragoman", "version": dragoman.__version__},
        "tags": [{"name": tag} for tag in dialects],
        "paths": paths,
        "components": {
            "schemas": _without_tuples(components),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }


def _add_optional_headers(
    described: dict[str, Any],
    operation: Operation,
    schemas: Mapping[_DocumentedType, dict[str, Any]],
    features: DocumentedFeatures,
) -> None:
    """Add the headers by which a request can be repeated or queued, and the responses to them."""
    parameters, responses = described["parameters"], described["responses"]
    if features.idempotency or (features.queue and operation.is_always_queued):
        parameters.append(_IDEMPOTENCY_KEY)
        responses["409"] = _error(409, schemas[operation.error])
    if features.queue:
        parameters.append(_WEBHOOK)
    if features.queue and (operation.chunk is not None or operation.is_queueable):
        parameters.append(_PREFER)
        content = {"application/json": {"schema": schemas[QueuedJobBody]}}
        responses["202"] = {
            "description": "The request is queued; `location` is the URL of its response",
            "content": content,
        }


def _structs(operation: Operation) -> list[_DocumentedType]:
    documented = (operation.request, operation.response, operation.chunk, operation.error)
    return [struct for struct in documented if struct is not None]


def _operation(
    tag: str, operation: Operation, schemas: Mapping[_DocumentedType, dict[str, Any]], model: str
) -> dict[str, Any]:
    content = {"application/json": {"schema": schemas[operation.response]}}
    if operation.chunk is not None:
        content["text/event-stream"] = {"schema": _event(schemas[operation.chunk], done=operation.ends_with_done)}
    described: dict[str, Any] = {
        "tags": [tag],
        "summary": operation.summary,
        "operationId": f"{operation.method.lower()}_{re.sub(r'[^a-z0-9]+', '_', operation.path.lower()).strip('_')}",
        "parameters": [
            *_path_parameters(operation.path, model),
            *_query_parameters(operation.query),
            *([_LAST_EVENT_ID] if operation.chunk is not None and operation.request is None else []),
        ],
        "responses": {
            "200": {"description": "The answer", "content": content},
            **{str(status): _error(status, schemas[operation.error]) for status in operation.error_statuses},
        },
    }
    if described["parameters"]:
        # A name with a slash matches no path, so no dialect answers.
        described["responses"]["404"] = _not_found(described["responses"].get("404"))
    if operation.request is not None:
        body: dict[str, Any] = {"schema": schemas[operation.request]}
        if operation.example is not None:
            body["example"] = example_body(operation.example, model)
        described["responses"]["415"] = _error(415, schemas[operation.error])
        described["requestBody"] = {"required": True, "content": {"application/json": body}}
    return described


def _error(status: int, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "description": _STATUS_DESCRIPTIONS.get(status, "The request failed"),
        "content": {"application/json": {"schema": schema}},
    }


def _not_found(documented: dict[str, Any] | None) -> dict[str, Any]:
    """Return the 404 of the dialect, if it has one, and of unknown paths."""
    generic = {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]}
    declared = [documented["content"]["application/json"]["schema"]] if documented else []
    return {
        "description": _STATUS_DESCRIPTIONS[404],
        "content": {"application/json": {"schema": {"anyOf": [*declared, generic]}}},
    }


def _event(document: dict[str, Any], *, done: bool) -> dict[str, Any]:
    """Return the schema of a server-sent event, as in OpenAPI 3.2. Its data is a JSON document or the terminator."""
    data: dict[str, Any] = {"type": "string", "contentMediaType": "application/json", "contentSchema": document}
    event: dict[str, Any] = {"type": "object", "required": ["data"]}
    if not done:
        return event | {"properties": {"data": data}}
    return event | {"anyOf": [{"properties": {"data": {"const": "[DONE]"}}}, {"properties": {"data": data}}]}


def _without_tuples(schema: Any) -> Any:
    """Return the schema with arrays of alternatives for tuples, whose `prefixItems` many tools do not support."""
    if isinstance(schema, list):
        return [_without_tuples(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _without_tuples(value) for key, value in schema.items()}
    if "prefixItems" in plain:
        plain["items"] = {"anyOf": plain.pop("prefixItems")}
    return plain


def example_body(example: Mapping[str, object], model: str) -> dict[str, object]:
    """Return the example with the model's name in its place."""
    return {key: model if value == "{model}" else value for key, value in example.items()}


def _path_parameters(path: str, model: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        | ({"example": model} if name in _MODEL_PATH_PARAMETERS else {})
        for name in re.findall(r"\{(\w+)\}", path)
    ]


def _query_parameters(query: type[msgspec.Struct] | None) -> list[dict[str, Any]]:
    if query is None:
        return []
    properties = msgspec.json.schema(query)["$defs"][query.__name__]["properties"]
    return [{"name": name, "in": "query", "schema": schema} for name, schema in properties.items()]


def _swagger_files() -> Path:
    # The package itself is not imported: it would import handlers for other web frameworks.
    spec = importlib.util.find_spec(_SWAGGER_PACKAGE)
    assert spec is not None, "the package is a dependency"
    assert spec.origin is not None, "the package has files"
    return Path(spec.origin).with_name("static")
