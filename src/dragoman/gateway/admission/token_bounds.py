"""The token counts that a request is admitted with."""

from collections.abc import Sequence
from typing import NamedTuple

from dragoman.core.embedding import EmbeddingRequest
from dragoman.core.errors import ContextOverflow, ModelLoading
from dragoman.core.request import ChatPrompt, Prompt
from dragoman.core.tasks import Task
from dragoman.gateway.routing.catalog import Deployment

UNBOUNDED_COMPLETION_TOKENS = 4096
"""The tokens of an answer that is bounded neither by its request nor by a known context length."""


class TokenBounds(NamedTuple):
    """The tokens of all prompts of a request, and the most that all their candidates may have."""

    prompt_tokens: int
    max_completion_tokens: int


async def token_bounds(deployment: Deployment, requests: Sequence[Task]) -> TokenBounds:
    """Count the tokens of prompts that the deployment can answer, and bound those of the answers. Raises core.errors.

    Where no engine counts exactly, the counts are estimates, and the engine decides whether a prompt is too long.
    """
    prompt_tokens = max_completion_tokens = 0
    for request in requests:
        if isinstance(request, EmbeddingRequest):
            prompt_tokens += await deployment.count_input_tokens(request)
            continue
        if len(deployment.engines) == 1:  # The request was found to be one that it can answer.
            [engine] = deployment.engines
            count = await engine.count_tokens(request.prompt)
        else:
            count, engine = await deployment.count_tokens(request.prompt)
        prompt_tokens += count
        capabilities = engine.capabilities
        has_images = "images" in capabilities and _has_images(request.prompt)
        is_exact = "exact_token_counts" in capabilities and not has_images
        max_completion_tokens += (request.best_of or request.n) * _answer_tokens(
            request.sampling.max_tokens, engine.context_length, count, is_exact=is_exact
        )
    return TokenBounds(prompt_tokens, max_completion_tokens)


def _has_images(prompt: Prompt) -> bool:
    """Whether a prompt has tokens whose number only its engine's vision model knows."""
    return isinstance(prompt, ChatPrompt) and any(message.images for message in prompt.messages)


def _answer_tokens(max_tokens: int | None, context_length: int | None, prompt_tokens: int, *, is_exact: bool) -> int:
    """Return the most tokens that one answer may have."""
    if context_length is None:
        if is_exact:  # The engine has died since it counted.
            raise ModelLoading("The model is being loaded", retry_after=1)
        return UNBOUNDED_COMPLETION_TOKENS if max_tokens is None else max_tokens
    available = context_length - prompt_tokens
    if available < 1:
        if is_exact:
            raise ContextOverflow(prompt_tokens, context_length, "Shorten the prompt.")
        available = 1
    return available if max_tokens is None else min(max_tokens, available)
