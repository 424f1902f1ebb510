"""The routes of responses that exist already."""

from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from dragoman.core.context import Caller
from dragoman.core.errors import BadRequest
from dragoman.core.responses import ResponseNotFound
from dragoman.dialects.http.codec import ErrorRenderer
from dragoman.dialects.http.context import RouteContext, json_response, with_error_mapping
from dragoman.dialects.http.large_bodies import restore
from dragoman.dialects.http.operation import Operation
from dragoman.dialects.http.query import read_query
from dragoman.dialects.openai import wire as openai_wire
from dragoman.dialects.responses import wire
from dragoman.dialects.responses.background import background_stream
from dragoman.dialects.responses.items import Item
from dragoman.dialects.responses.stored import StoredResponses, listed_items


def stored_routes(path: str, route: RouteContext, stored: StoredResponses, errors: ErrorRenderer) -> list[BaseRoute]:
    """Return the routes of one response, below `path`."""

    async def retrieve(request: Request) -> Response:
        async def handler(caller: Caller) -> Response:
            query = read_query(request.query_params, wire.RetrieveQuery)
            response_id = request.path_params["response_id"]
            record = await stored.find(response_id, caller)
            if record is not None and not query.stream:
                return json_response(record.response)
            try:
                job, decoded = await stored.job(response_id, caller)
            except ResponseNotFound:
                if record is None:
                    raise
                raise BadRequest("Only a response in the background can be streamed again", "stream") from None
            if query.stream:
                received = await restore(job.stored_request, route, caller)
                return background_stream(route, job, received, caller, starting_after=query.starting_after)
            return json_response(await stored.generated(job, decoded, caller))

        return await with_error_mapping(request, route, handler, errors)

    async def delete(request: Request) -> Response:
        async def handler(caller: Caller) -> Response:
            response_id = request.path_params["response_id"]
            await stored.delete(response_id, caller)
            return json_response(wire.DeletedResponse(response_id))

        return await with_error_mapping(request, route, handler, errors)

    async def cancel(request: Request) -> Response:
        async def handler(caller: Caller) -> Response:
            response_id = request.path_params["response_id"]
            record = await stored.find(response_id, caller)
            try:
                job, decoded = await stored.job(response_id, caller)
            except ResponseNotFound:
                if record is None:
                    raise
                raise BadRequest("Only a response in the background can be cancelled", "response_id") from None
            job = await route.service.cancel_job(job.id, caller)
            return json_response(await stored.generated(job, decoded, caller))

        return await with_error_mapping(request, route, handler, errors)

    async def list_items(request: Request) -> Response:
        async def handler(caller: Caller) -> Response:
            query = read_query(request.query_params, wire.ItemsQuery)
            return json_response(_page(await _input_items(request.path_params["response_id"], stored, caller), query))

        return await with_error_mapping(request, route, handler, errors)

    return [
        Route(path, retrieve, methods=["GET"]),
        Route(path, delete, methods=["DELETE"]),
        Route(f"{path}/cancel", cancel, methods=["POST"]),
        Route(f"{path}/input_items", list_items, methods=["GET"]),
    ]


async def _input_items(response_id: str, stored: StoredResponses, caller: Caller) -> list[Item]:
    record = await stored.find(response_id, caller)
    if record is not None:
        items: list[Item] = msgspec.json.decode(record.input, type=list[dict[str, Any]])
        return items
    _, decoded = await stored.job(response_id, caller)
    return listed_items(decoded.parts.items, response_id.partition("_")[2])


def _page(items: Sequence[Item], query: wire.ItemsQuery) -> wire.ItemList:
    """Return a page of items. Raises BadRequest if `after` is none of them."""
    ordered = list(items) if query.order == "asc" else list(reversed(items))
    if query.after is not None:
        ids = [item["id"] for item in ordered]
        if query.after not in ids:
            raise BadRequest(f"after must be the id of one of the items, got '{query.after[:80]}'", "after")
        ordered = ordered[ids.index(query.after) + 1 :]
    page = ordered[: query.limit]
    return wire.ItemList(
        data=page,
        first_id=page[0]["id"] if page else None,
        last_id=page[-1]["id"] if page else None,
        has_more=len(ordered) > len(page),
    )


_STATUSES = (400, 401, 403, 404, 429, 500, 503)


def stored_operations(path: str) -> Sequence[Operation]:
    """Return the routes of one response, in the OpenAPI document."""
    return (
        Operation(
            method="GET",
            path=path,
            summary="A stored response",
            response=wire.ResponseBody,
            error=openai_wire.ErrorBody,
            error_statuses=_STATUSES,
            query=wire.RetrieveQuery,
        ),
        Operation(
            method="DELETE",
            path=path,
            summary="Delete a stored response",
            response=wire.DeletedResponse,
            error=openai_wire.ErrorBody,
            error_statuses=_STATUSES,
        ),
        Operation(
            method="POST",
            path=f"{path}/cancel",
            summary="Cancel a response in the background",
            response=wire.ResponseBody,
            error=openai_wire.ErrorBody,
            error_statuses=_STATUSES,
        ),
        Operation(
            method="GET",
            path=f"{path}/input_items",
            summary="The items of a response's input",
            response=wire.ItemList,
            error=openai_wire.ErrorBody,
            error_statuses=_STATUSES,
            query=wire.ItemsQuery,
        ),
    )
