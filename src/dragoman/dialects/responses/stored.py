"""Responses that were stored, or that the queue generates: found, continued and deleted by their owner."""

import contextlib
import re
from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from dragoman.core.context import Caller
from dragoman.core.errors import BadRequest, DragomanError, JobNotFound
from dragoman.core.jobs import Job
from dragoman.core.responses import (
    MAX_HISTORY_BYTES,
    HistoryTooLarge,
    PreviousResponseNotFound,
    ResponseNotFound,
    ResponseRecord,
)
from dragoman.dialects.http.context import RouteContext
from dragoman.dialects.http.large_bodies import TooManyValues, check_value_count, restore
from dragoman.dialects.responses import wire
from dragoman.dialects.responses.background import BackgroundEvents
from dragoman.dialects.responses.codec import DecodedResponse
from dragoman.dialects.responses.errors import ResponsesErrors
from dragoman.dialects.responses.items import Item, kind_of

_ID = re.compile(r"resp_([0-9a-f]{32})")
_ITEM_ID = re.compile(r"[a-z]+_([0-9a-f]{32})[0-9a-f]{4}")

_FIRST_INPUT_ITEM = 0x8000
"""Number of an input's first item in its id; those of outputs begin with 0."""

_PREFIXES = {"message": "msg", "function_call": "fc", "reasoning": "rs", "custom_tool_call": "ctc"}

_decode_items: msgspec.json.Decoder[list[Item]] = msgspec.json.Decoder(list[dict[str, Any]])


def listed_items(items: Sequence[Item], answer_id: str) -> list[Item]:
    """Return the items of an input as they are listed: each with an id, and contents as parts."""
    return [_listed(item, f"{answer_id}{_FIRST_INPUT_ITEM + number:04x}") for number, item in enumerate(items)]


def _listed(item: Item, number: str) -> Item:
    kind = kind_of(item)
    listed = {"id": f"{_PREFIXES.get(kind, 'item')}_{number}", **item, "type": kind}
    if kind == "message":
        listed.setdefault("status", "completed")
        if isinstance(text := item.get("content"), str):
            part = "output_text" if item.get("role") == "assistant" else "input_text"
            listed["content"] = [{"type": part, "text": text}]
    return listed


def record_of(decoded: DecodedResponse, response: wire.ResponseBody) -> ResponseRecord:
    """Return what is stored of a complete response."""
    items = listed_items(decoded.parts.items, response.id.partition("_")[2])
    return ResponseRecord(
        id=response.id,
        previous_id=response.previous_response_id,
        input=msgspec.json.encode(items),
        response=msgspec.json.encode(response),
    )


def items_of(record: ResponseRecord) -> list[Item]:
    """Return the items of a response and its input, in their order."""
    output = msgspec.json.decode(record.response, type=dict[str, Any])["output"]
    return [*_decode_items.decode(record.input), *output]


class StoredResponses:
    """The responses that callers have."""

    def __init__(self, route: RouteContext) -> None:
        self._route = route
        self._store = route.options.response_store

    async def save(self, record: ResponseRecord, caller: Caller) -> None:
        """Store a response."""
        if self._store is not None:
            await self._store.store(record, await self._route.service.owner(caller))

    async def history(self, response_id: str, caller: Caller) -> list[Item]:
        """Return the items of a response and of all before it, oldest first.

        Raises PreviousResponseNotFound and HistoryTooLarge.
        """
        if self._store is None:
            raise PreviousResponseNotFound(response_id)
        owner = await self._route.service.owner(caller)
        records: list[ResponseRecord] = []
        following: str | None = response_id
        try:
            while following is not None:
                found = await self._store.history(following, owner)
                records += found.records
                self._check_size(records, "previous_response_id")
                following = found.missing
                if following is not None:
                    record = await self._generated_record(following, caller)
                    records.append(record)
                    following = record.previous_id
        except ResponseNotFound:
            raise PreviousResponseNotFound(response_id) from None
        return [item for record in reversed(records) for item in items_of(record)]

    async def resolved(self, items: Sequence[Item], caller: Caller) -> list[Item]:
        """Return the items with those that are only referenced in place of the references. Raises BadRequest."""
        records: dict[str, ResponseRecord | None] = {}
        known: dict[str, Item] = {}
        for item_id in (str(item.get("id")) for item in items if kind_of(item) == "item_reference"):
            match = _ITEM_ID.fullmatch(item_id)
            if match is not None and (response_id := f"resp_{match[1]}") not in records:
                records[response_id] = record = await self._find_or_none(response_id, caller)
                self._check_size([each for each in records.values() if each is not None], "input")
                for each in [] if record is None else items_of(record):
                    known.setdefault(str(each.get("id")), each)
            if item_id not in known:
                raise BadRequest(f"Item with id '{item_id[:80]}' not found.", "input")
        return [known[str(item["id"])] if kind_of(item) == "item_reference" else item for item in items]

    async def find(self, response_id: str, caller: Caller) -> ResponseRecord | None:
        """Return a stored response; None: it is not stored. Raises ResponseNotFound if it was deleted."""
        owner = await self._route.service.owner(caller)
        if self._store is None or not _ID.fullmatch(response_id):
            return None
        return await self._store.find(response_id, owner)

    async def delete(self, response_id: str, caller: Caller) -> None:
        """Delete a response and its job, and stop its generation. Raises ResponseNotFound."""
        owner = await self._route.service.owner(caller)
        if self._store is None or not _ID.fullmatch(response_id):
            raise ResponseNotFound(response_id)
        is_stored = await self._store.find(response_id, owner) is not None
        with contextlib.suppress(ResponseNotFound) if is_stored else contextlib.nullcontext():
            job, _ = await self.job(response_id, caller)
            await self._route.service.delete_job(job.id, caller)
        await self._store.delete(response_id, owner)

    async def job(self, response_id: str, caller: Caller) -> tuple[Job, DecodedResponse]:
        """Return the queue's job that generates a response, and its request. Raises ResponseNotFound."""
        match = _ID.fullmatch(response_id)
        if match is None or not self._route.service.has_queue:
            await self._route.service.owner(caller)
            raise ResponseNotFound(response_id)
        try:
            job = await self._route.service.job(f"job_{match[1]}", caller)
        except JobNotFound:
            raise ResponseNotFound(response_id) from None
        decoded = await self.request_of(job, caller)
        if decoded is None or not decoded.response.head.store:
            raise ResponseNotFound(response_id)
        return job, decoded

    async def request_of(self, job: Job, caller: Caller) -> DecodedResponse | None:
        """Return the job's request; None: it is not one for a response."""
        decoded = (await restore(job.stored_request, self._route, caller)).decoded
        return decoded if isinstance(decoded, DecodedResponse) else None

    async def generated(self, job: Job, decoded: DecodedResponse, caller: Caller) -> wire.ResponseBody:
        """Return the response of a job as it is now, and store it if it is complete."""
        builder = decoded.response
        match job.state:
            case "queued":
                return builder.head
            case "running":
                return msgspec.structs.replace(builder.head, status="in_progress")
            case "cancelled":
                return msgspec.structs.replace(builder.head, status="cancelled")
            case "failed":
                return builder.failed(_response_error(decoded.in_client_terms(job.error or JobNotFound(job.id))))
        events = BackgroundEvents(
            await self._route.service.follow_job(job.id, caller), self._route, job.id, caller, decoded
        )
        async with contextlib.aclosing(events):
            async for event in events:
                builder.note(event)
        response = msgspec.json.decode(builder.build(), type=wire.ResponseBody)
        await self.save(record_of(decoded, response), caller)
        return response

    async def _generated_record(self, response_id: str, caller: Caller) -> ResponseRecord:
        """Return what is stored of a complete response that the queue generated. Raises ResponseNotFound."""
        job, decoded = await self.job(response_id, caller)
        response = await self.generated(job, decoded, caller)
        if response.status not in ("completed", "incomplete"):
            raise ResponseNotFound(response_id)
        return record_of(decoded, response)

    async def _find_or_none(self, response_id: str, caller: Caller) -> ResponseRecord | None:
        with contextlib.suppress(ResponseNotFound):
            return await self.find(response_id, caller)
        return None

    def _check_size(self, records: Collection[ResponseRecord], parameter: str) -> None:
        """Raise HistoryTooLarge if the records have too many bytes or JSON values."""
        if sum(record.size for record in records) > MAX_HISTORY_BYTES:
            raise HistoryTooLarge(parameter)
        try:
            check_value_count(b",".join(record.input for record in records), self._route.options.max_body_values)
        except TooManyValues:
            raise HistoryTooLarge(parameter) from None


_errors = ResponsesErrors()


def _response_error(error: DragomanError) -> wire.ResponseError:
    """Return an error as a failed response has it."""
    detail = _errors.detail_of(error)
    return wire.ResponseError(detail.code or "server_error", detail.message)
