"""A reader of the Messages API's streams that insists on their order."""

import json
from typing import Any

_FIELDS = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}


def message_of(text: str) -> Any:
    """Return the message of a complete stream, and check that each event is named after its type."""
    *frames, end = text.split("\n\n")
    assert end == ""
    events = []
    for frame in frames:
        if not frame.startswith(":"):
            name, data = frame.split("\n")
            events.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {events[-1]['type']}"
    assert events.pop() == {"type": "message_stop"}, "a stream has its terminator"
    pings = [number for number, event in enumerate(events) if event["type"] == "ping"]
    return assembled_message([event for number, event in enumerate(events) if number not in pings[1:]])


def assembled_message(events: list[Any]) -> Any:
    """Return the message of a stream without its last event, message_stop, and check the order of its events."""
    start, ping, *blocks, end = events
    assert (start["type"], ping, end["type"]) == ("message_start", {"type": "ping"}, "message_delta")
    message = start["message"]
    assert (message["content"], message["stop_reason"]) == ([], None)
    content: list[Any] = []
    is_open = False
    for event in blocks:
        if event["type"] == "content_block_start":
            assert not is_open, "a block ends before the next one starts"
            assert event["index"] == len(content), "indices have no gaps"
            content.append({**event["content_block"], "partial_json": ""})
            is_open = True
            continue
        assert is_open, event
        assert event["index"] == len(content) - 1
        if event["type"] == "content_block_stop":
            is_open = False
            _finish(content[-1])
        else:
            assert event["type"] == "content_block_delta"
            _add(content[-1], event["delta"])
    assert not is_open, "every block ends"
    return {**message, "content": content, **end["delta"], "usage": {**message["usage"], **end["usage"]}}


def _add(block: Any, delta: Any) -> None:
    kind = delta["type"]
    assert not block.get("signature"), "a signature is the last piece"
    if kind == "input_json_delta":
        assert block["type"] == "tool_use"
        block["partial_json"] += delta["partial_json"]
    else:
        field = _FIELDS[kind]
        assert delta[field], "no piece is empty"
        block[field] += delta[field]


def _finish(block: Any) -> None:
    partial = block.pop("partial_json")
    if partial:
        block["input"] = json.loads(partial)
    assert block["type"] != "thinking" or block["signature"]
