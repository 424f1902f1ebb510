"""Images in results of tools are shown to models that take images. With others they end no agent's conversation."""

import json
from typing import Any

import msgspec
import pytest

from dragoman.core.errors import BadRequest
from dragoman.core.models import ServedModel
from dragoman.core.request import ChatPrompt, ImagePart, Message, TextPart
from dragoman.dialects.anthropic.codec import decode_messages
from dragoman.dialects.http.codec import DecodeContext, DecodedRequest
from dragoman.dialects.openai.codec import decode_chat as decode_openai_chat
from dragoman.dialects.responses.codec import decode_response
from dragoman.dialects.vendors.infermatic.codec import decode_chat as decode_infermatic_chat
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


def chat_messages() -> list[dict[str, Any]]:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    content = [{"type": "text", "text": "Seen: "}, {"type": "image_url", "image_url": {"url": IMAGE.url}}]
    return [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "1", "content": content}]


def openai(context: DecodeContext) -> DecodedRequest:
    return decode_openai_chat(encoded(messages=chat_messages()), context)


def infermatic(context: DecodeContext) -> DecodedRequest:
    return decode_infermatic_chat(encoded(messages=chat_messages()), context)


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


@pytest.mark.parametrize("decode", [openai, infermatic])
def test_a_tool_may_return_an_image_in_a_chat_to_a_model_that_sees(decode: Any) -> None:
    content = (TextPart("Seen: "), IMAGE)
    assert result_of(decode(decode_context([SEEING]))) == Message(role="tool", content=content, tool_call_id="1")
    with pytest.raises(BadRequest, match="This model takes text only"):
        decode(decode_context([BLIND]))
