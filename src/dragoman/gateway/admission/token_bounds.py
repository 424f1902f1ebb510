"""The token counts that a request is admitted with."""

from collections.abc import Sequence

from dragoman.core.errors import ContextOverflow, ModelLoading
from dragoman.core.request import GenerationRequest
from dragoman.engines.base import Engine


async def token_bounds(engine: Engine, requests: Sequence[GenerationRequest]) -> tuple[int, int]:
    """Return the tokens of all prompts, and the most that all their candidates may have. Raises core.errors."""
    prompt_tokens = max_completion_tokens = 0
    for request in requests:
        count = await engine.count_tokens(request.prompt)
        prompt_tokens += count
        max_completion_tokens += _max_completion_tokens(engine.context_length, request, count)
    return prompt_tokens, max_completion_tokens


def _max_completion_tokens(context_length: int | None, request: GenerationRequest, prompt_tokens: int) -> int:
    if context_length is None:  # The engine has died since it counted.
        raise ModelLoading("The model is being loaded", retry_after=1)
    available = context_length - prompt_tokens
    if available < 1:
        raise ContextOverflow(prompt_tokens, context_length, "Shorten the prompt.")
    max_tokens = request.sampling.max_tokens
    return (request.best_of or request.n) * (available if max_tokens is None else min(max_tokens, available))
