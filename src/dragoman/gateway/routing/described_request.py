"""What the router of a deployment has to know of a request."""

import hashlib
from collections.abc import Collection
from typing import NamedTuple

from dragoman.core.limits import input_characters
from dragoman.core.request import ChatPrompt, GenerationRequest, Message, TextPrompt, TokenPrompt
from dragoman.core.tasks import Task
from dragoman.gateway.routing.policies import RoutingRequest
from dragoman.gateway.routing.prefix_tree import Blocks, hash_text, hash_tokens

CHARACTERS_PER_TOKEN = 4
"""Of an ordinary text. Loads are compared with it, nothing is charged by it."""

EXPECTED_ANSWER_TOKENS = 256
"""Of an answer that its request does not bound more closely."""


_ANY = RoutingRequest()
"""Of which no replica has anything yet, as far as is compared."""


class DescribedRequest(NamedTuple):
    """A request, as far as routing goes."""

    routing: RoutingRequest
    tokens: int
    """Of its prompt and its expected answers, an estimate."""


def describe(request: Task, *, separations: Collection[bool] = ()) -> DescribedRequest:
    """Describe a request.

    `separations`: with the hashes of its prompt for replicas that separate owners (True), for those that do not
    (False), or for both.
    """
    if not isinstance(request, GenerationRequest):
        return DescribedRequest(RoutingRequest(), sum(map(input_characters, request.inputs)) // CHARACTERS_PER_TOKEN)
    prompt = request.prompt
    text = ""
    if isinstance(prompt, TokenPrompt):
        prompt_tokens = len(prompt.token_ids)
    else:
        text = prompt.text if isinstance(prompt, TextPrompt) else _conversation_text(prompt)
        prompt_tokens = len(text) // CHARACTERS_PER_TOKEN
    answer_tokens = EXPECTED_ANSWER_TOKENS
    if request.sampling.max_tokens is not None:
        answer_tokens = min(answer_tokens, request.sampling.max_tokens)
    tokens = prompt_tokens + (request.best_of or request.n) * answer_tokens
    if not separations and not request.affinity and request.adapter is None:
        return DescribedRequest(_ANY, tokens)
    return DescribedRequest(_routing_request(request, text, separations), tokens)


def _routing_request(request: GenerationRequest, text: str, separations: Collection[bool]) -> RoutingRequest:
    """Describe what distinguishes the request. `text` is that of a prompt that is none of token ids."""
    adapter = request.adapter or ""
    owner = f"{len(request.owner)}:{request.owner}"
    blocks: dict[bool, Blocks] = {}
    for separated in separations:
        salt = f"{owner}{request.cache_salt}" if separated else ""
        if isinstance(request.prompt, TokenPrompt):
            blocks[separated] = hash_tokens(request.prompt.token_ids, adapter=adapter, cache_salt=salt)
        else:
            blocks[separated] = hash_text(text, adapter=adapter, cache_salt=salt)
    return RoutingRequest(
        blocks=blocks.get(True, ()),
        shared_blocks=blocks.get(False, ()),
        adapter=adapter,
        affinity=f"{owner}{request.affinity}" if request.affinity else "",
    )


def _conversation_text(prompt: ChatPrompt) -> str:
    """Return a text that begins like another conversation's exactly if the conversations begin alike."""
    if prompt.tools is None:
        return "\1".join(map(_message_text, prompt.messages))
    # Templates render tools into the first message, or before it.
    described_tools = (f"{tool.name}\0{tool.description}\0{tool.parameters}" for tool in prompt.tools.tools)
    return "\1".join((*described_tools, *map(_message_text, prompt.messages)))


def _message_text(message: Message) -> str:
    if isinstance(message.content, str) and not message.tool_calls:
        return f"{message.role}\0{message.content}"
    images = (hashlib.blake2b(image.url.encode(errors="replace")).hexdigest() for image in message.images)
    calls = (f"{call.name}{call.arguments}" for call in message.tool_calls)
    return "\0".join((message.role, message.text, *images, *calls))
