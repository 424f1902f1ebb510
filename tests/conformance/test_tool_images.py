"""Images in results of tools are shown to models that take images, and end no conversation with others."""

import json
from typing import Any

import msgspec
import pytest

from dragoman.core.models import ServedModel
from dragoman.core.request import ChatPrompt, ImagePart, Message, TextPart
from dragoman.dialects.anthropic.codec import decode_messages
from dragoman.dialects.http.codec import DecodeContext, DecodedRequest
from dragoman.dialects.responses.codec import decode_response
from tests.support.dialects.decode_contexts import decode_context

IMAGE = ImagePart("data:image/png;base64,AAAA")
BLIND = ServedModel(id="m", aliases=(), context_length=9)
SEEING = msgspec.structs.replace(BLIND, takes_images=True)


def anthropic(context: DecodeContext) -> DecodedRequest:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    result = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "Seen: "}, image]}
    call = {"type": "tool_use", "id": "1", "name": "look", "input": {}}
    messages = [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
    return decode_messages(encoded(max_tokens=5, messages=messages), context)


def responses(context: DecodeContext) -> DecodedRequest:
    image = {"type": "input_image", "image_url": IMAGE.url}
    output = [{"type": "input_text", "text": "Seen: "}, image]
    items = [
        {"type": "function_call", "call_id": "1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": output},
    ]
    return decode_response(encoded(input=items), context)


def encoded(**fields: Any) -> bytes:
    return json.dumps({"model": "m", **fields}).encode()


def result_of(decoded: DecodedRequest) -> Message:
    prompt = decoded.requests[0].prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt.messages[-1]


@pytest.mark.parametrize("decode", [anthropic, responses])
@pytest.mark.parametrize(
    ("model", "content"), [(SEEING, (TextPart("Seen: "), IMAGE)), (BLIND, "Seen: [image]")], ids=["seeing", "blind"]
)
def test_a_tool_may_return_an_image_to_any_model(decode: Any, model: ServedModel, content: Any) -> None:
    decoded = decode(decode_context([model]))
    assert result_of(decoded) == Message(role="tool", content=content, tool_call_id="1")
    # A queued request is decoded again without the models.
    assert result_of(decode(decode_context(**decoded.extra_arguments))) == result_of(decoded)
