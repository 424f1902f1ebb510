"""A reader of the Responses API's streams that insists on every rule of Open Responses and of OpenAI's own reader."""

import json
from typing import Any

from dragoman.dialects.http.sse import SseEvent

TERMINAL = ("response.completed", "response.incomplete", "response.failed")

RESPONSE_FIELDS: dict[str, tuple[type | None, ...]] = {
    "id": (str,),
    "object": (str,),
    "created_at": (int,),
    "completed_at": (int, None),
    "status": (str,),
    "incomplete_details": (dict, None),
    "error": (dict, None),
    "model": (str,),
    "previous_response_id": (str, None),
    "instructions": (str, None),
    "output": (list,),
    "tools": (list,),
    "tool_choice": (str, dict),
    "truncation": (str,),
    "parallel_tool_calls": (bool,),
    "text": (dict,),
    "top_p": (float, int),
    "presence_penalty": (float, int),
    "frequency_penalty": (float, int),
    "top_logprobs": (int,),
    "temperature": (float, int),
    "reasoning": (dict, None),
    "usage": (dict, None),
    "max_output_tokens": (int, None),
    "max_tool_calls": (int, None),
    "store": (bool,),
    "background": (bool,),
    "service_tier": (str,),
    "metadata": (dict,),
    "safety_identifier": (str, None),
    "prompt_cache_key": (str, None),
}
"""Every member that Open Responses requires of a response, null or not."""

ITEM_FIELDS = {
    "message": {"id", "type", "status", "role", "content"},
    "reasoning": {"id", "type", "summary", "content"},
    "function_call": {"id", "type", "status", "call_id", "name", "arguments"},
    "custom_tool_call": {"id", "type", "status", "call_id", "name", "input"},
}


def check_response(response: dict[str, Any]) -> None:
    """Check a response against Open Responses' schema."""
    for name, types in RESPONSE_FIELDS.items():
        value = response[name]
        assert any(value is None if kind is None else type(value) is kind for kind in types), (name, value)
    assert response["object"] == "response"
    assert response["status"] in ("queued", "in_progress", "completed", "incomplete", "failed", "cancelled")
    assert (response["completed_at"] is not None) == (response["status"] == "completed")
    assert (response["incomplete_details"] is not None) == (response["status"] == "incomplete")
    for tool in response["tools"]:
        if tool["type"] == "function":
            assert set(tool) >= {"name", "description", "parameters", "strict"}
    if response["reasoning"] is not None:
        assert set(response["reasoning"]) >= {"effort", "summary"}
    if (usage := response["usage"]) is not None:
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
        assert set(usage["input_tokens_details"]) == {"cached_tokens", "cache_write_tokens"}
        assert set(usage["output_tokens_details"]) == {"reasoning_tokens"}
    for index, item in enumerate(response["output"]):
        check_item(item)
        if item.get("status") == "incomplete":
            assert index == len(response["output"]) - 1
            assert response["status"] in ("incomplete", "failed")


def check_item(item: dict[str, Any]) -> None:
    """Check an item of an output."""
    assert set(item) - {"encrypted_content", "namespace"} == ITEM_FIELDS[item["type"]]
    assert item.get("encrypted_content", "") is not None
    for part in item.get("content", []):
        if part["type"] == "output_text":
            assert set(part) == {"type", "text", "annotations", "logprobs"}
            assert all(token["bytes"] is not None for token in part["logprobs"])


class StreamReader:
    """Reads the events of one response, and raises AssertionError for the first that breaks a rule."""

    def __init__(self) -> None:
        self.response: dict[str, Any] | None = None
        self.done = False
        self._id = ""
        self._next_number = 0
        self._types: list[str] = []
        self._open: dict[str, Any] | None = None
        self._items: list[dict[str, Any]] = []
        self._part_open = False
        self._pieces: list[str] = []
        self._has_error = False

    def feed(self, sent: SseEvent) -> None:
        """Read the next event."""
        assert not self.done, "nothing follows [DONE]"
        if sent.data == b"[DONE]":
            assert self.response is not None, "[DONE] follows the last event"
            self.done = True
            return
        assert self.response is None, "nothing but [DONE] follows the last event"
        event = json.loads(sent.data)
        kind = event["type"]
        assert sent.name == kind
        assert event["sequence_number"] == self._next_number
        self._next_number += 1
        if not self._types:
            assert kind == "response.created"
            self._id = event["response"]["id"]
        self._types.append(kind)
        if "response" in event:
            check_response(event["response"])
            assert event["response"]["id"] == self._id
        self._dispatch(kind, event)

    def _dispatch(self, kind: str, event: dict[str, Any]) -> None:
        match kind:
            case "response.created" | "response.queued" | "response.in_progress":
                assert event["response"]["output"] == []
                assert self._types == [
                    each for each in self._types if each in ("response.created", "response.queued", kind)
                ]
            case "response.output_item.added":
                self._add(event)
            case "response.output_item.done":
                self._end(event)
            case "response.content_part.added":
                self._expect_place(event)
                assert (event["part"]["text"], self._part_open, event["content_index"]) == ("", False, 0)
                self._part_open = True
            case "response.content_part.done":
                self._expect_place(event)
                assert event["part"]["text"] == "".join(self._pieces)
                self._part_open = False
            case "error":
                assert event["error"]["message"] == event["message"]
                self._has_error = True
            case _ if kind in TERMINAL:
                self._close(kind, event["response"])
            case _ if kind.endswith(".delta"):
                self._expect_place(event)
                assert event["delta"], "no empty deltas" if not event.get("logprobs") else ""
                self._pieces.append(event["delta"])
                assert self._part_open == ("content_index" in event), "a part is added before its text"
            case _ if kind.endswith(".done"):
                self._expect_place(event)
                [name] = {"text", "arguments", "input"} & set(event)
                assert event[name] == "".join(self._pieces)
            case _:
                raise AssertionError(f"unknown event {kind}")

    def _add(self, event: dict[str, Any]) -> None:
        assert "response.in_progress" in self._types
        assert self._open is None, "items do not interleave"
        assert event["output_index"] == len(self._items)
        item = event["item"]
        check_item(item)
        assert item.get("status", "in_progress") == "in_progress"
        assert [item[name] for name in ("content", "arguments", "input") if item.get(name)] == []
        self._open = item
        self._pieces = []

    def _end(self, event: dict[str, Any]) -> None:
        assert self._open is not None
        assert not self._part_open
        assert event["output_index"] == len(self._items)
        item = event["item"]
        check_item(item)
        for name in ("id", "type", "call_id", "name"):
            assert item.get(name) == self._open.get(name)
        text = item.get("arguments", item.get("input"))
        assert (item["content"][0]["text"] if text is None else text) == "".join(self._pieces)
        self._items.append(item)
        self._open = None

    def _expect_place(self, event: dict[str, Any]) -> None:
        assert self._open is not None, "no content before its item"
        assert (event["item_id"], event["output_index"]) == (self._open["id"], len(self._items))

    def _close(self, kind: str, response: dict[str, Any]) -> None:
        assert response["status"] == kind.removeprefix("response.")
        if kind == "response.failed":
            assert self._has_error, "a failure is reported before"
            assert response["error"] is not None
            self.done = True
        else:
            assert self._open is None, "every item was done"
            assert response["usage"] is not None
        assert response["output"] == self._items
        self.response = response


def read_events(events: list[SseEvent]) -> dict[str, Any]:
    """Return the final response of a whole stream."""
    reader = StreamReader()
    for event in events:
        reader.feed(event)
    assert reader.done
    assert reader.response is not None
    return reader.response


def parse_stream(text: str) -> list[SseEvent]:
    """Return the events of a stream as it was sent."""
    events = []
    for block in text.removesuffix("\n\n").split("\n\n"):
        name, _, data = block.rpartition("data: ")
        events.append(SseEvent(data.encode(), name.removeprefix("event: ").rstrip("\n") or None))
    return events
