"""What the turns of a conversation share, with a simulated model that computes every token that is not shared.

A real model would take a minute for prompts of this length.
"""

import json
from typing import Any

from dragoman.core.events import Delta, Finished
from dragoman.core.request import ChatPrompt
from dragoman.dialects.anthropic import codec
from dragoman.prompt.chatml import CHATML
from dragoman.prompt.template import ChatTemplate
from tests.support.batching import BatcherHarness
from tests.support.dialects import claude_code
from tests.support.dialects.cases import build_response
from tests.support.dialects.decode_contexts import decode_context

TURNS = 20
TEMPLATE = ChatTemplate(CHATML, bos="", eos="")


def tokens_of(text: str) -> list[int]:
    """Return two tokens of the simulated vocabulary for each byte."""
    return [token for byte in text.encode() for token in (1 + byte // 16, 17 + byte % 16)]


def answer(harness: BatcherHarness, body: dict[str, Any]) -> Any:
    """Return the message with which the simulated model answers."""
    decoded = codec.decode_messages(json.dumps(body).encode(), decode_context())
    prompt = decoded.requests[0].prompt
    assert isinstance(prompt, ChatPrompt)
    key = harness.add(tokens_of(TEMPLATE.render(prompt).text), limit=8)
    harness.run()
    published = harness.answers[key]
    assert published.usage is not None
    text = "".join(chr(ord("A") + token) for token in published.tokens.get(0, []))
    return build_response(decoded.builder, [Delta(0, f"ok {text}"), Finished(0, "stop"), published.usage])


def test_the_turns_of_claude_code_share_95_of_100_prompt_tokens_whatever_its_attribution_is() -> None:
    harness = BatcherHarness(cells=32_768, max_batched_tokens=2048, host_cache_tokens=65_536)
    messages: list[Any] = claude_code.first_turn("List the files.")
    for turn in range(TURNS):
        body = claude_code.request(messages, attribution=f"{turn:05x}", paragraphs=8)
        message = answer(harness, body)
        usage = message["usage"]
        prompt_tokens = usage["input_tokens"] + usage["cache_read_input_tokens"]
        assert prompt_tokens > 8000
        assert usage["cache_read_input_tokens"] >= (0.95 * prompt_tokens if turn else 0), f"turn {turn}: {usage}"
        call = {"type": "tool_use", "id": f"toolu_{turn}", "name": "Bash", "input": {"command": f"ls {turn}"}}
        result = {"type": "tool_result", "tool_use_id": call["id"], "content": f"a{turn}.txt"}
        messages += [
            {"role": "assistant", "content": [*message["content"], call]},
            {"role": "user", "content": [result, {"type": "text", "text": "And now?"}]},
            {"role": "system", "content": f"{turn} files changed."},
        ]
