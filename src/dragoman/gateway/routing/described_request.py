"""What the router of a deployment has to know of a request."""

import hashlib
from collections.abc import Collection
from typing import NamedTuple

from dragoman.core.limits import input_characters
from dragoman.core.request import ChatPrompt, GenerationRequest, Message, TextPrompt, TokenPrompt
from dragoman.core.tasks import Task
from dragoman.gateway.routing.policies import RoutingRequest
from dragoman.gateway.routing.prefix_tree import hash_text, hash_tokens

CHARACTERS_PER_TOKEN = 4
"""Of an ordinary text. Loads are compared with it, nothing is charged by it."""

EXPECTED_ANSWER_TOKENS = 256
"""Of an answer that its request does not bound more closely."""


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
    prompt, adapter = request.prompt, request.adapter or ""
    owner = f"{len(request.owner)}:{request.owner}"
    salts = {separated: f"{owner}{request.cache_salt}" if separated else "" for separated in separations}
    if isinstance(prompt, TokenPrompt):
        prompt_tokens, token_ids = len(prompt.token_ids), prompt.token_ids
        blocks = {key: hash_tokens(token_ids, adapter=adapter, cache_salt=salt) for key, salt in salts.items()}
    else:
        text = prompt.text if isinstance(prompt, TextPrompt) else _conversation_text(prompt)
        prompt_tokens = len(text) // CHARACTERS_PER_TOKEN
        blocks = {key: hash_text(text, adapter=adapter, cache_salt=salt) for key, salt in salts.items()}
    answer_tokens = EXPECTED_ANSWER_TOKENS
    if request.sampling.max_tokens is not None:
        answer_tokens = min(answer_tokens, request.sampling.max_tokens)
    tokens = prompt_tokens + (request.best_of or request.n) * answer_tokens
    routing = RoutingRequest(
        blocks=blocks.get(True, ()),
        shared_blocks=blocks.get(False, ()),
        adapter=adapter,
        affinity=f"{owner}{request.affinity}" if request.affinity else "",
    )
    return DescribedRequest(routing, tokens)


def _conversation_text(prompt: ChatPrompt) -> str:
    """Return a text that begins like another conversation's exactly if the conversations begin alike."""
    # Templates render tools into the first message, or before it.
    tools = () if prompt.tools is None else prompt.tools.tools
    described_tools = (f"{tool.name}\0{tool.description}\0{tool.parameters}" for tool in tools)
    return "\1".join((*described_tools, *map(_message_text, prompt.messages)))


def _message_text(message: Message) -> str:
    if isinstance(message.content, str) and not message.tool_calls:
        return f"{message.role}\0{message.content}"
    images = (hashlib.blake2b(image.url.encode(errors="replace")).hexdigest() for image in message.images)
    calls = (f"{call.name}{call.arguments}" for call in message.tool_calls)
    return "\0".join((message.role, message.text, *images, *calls))
