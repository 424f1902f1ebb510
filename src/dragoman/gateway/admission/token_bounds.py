"""The token counts that a request is admitted with."""

from collections.abc import Sequence

from dragoman.core.errors import ContextOverflow, ModelLoading
from dragoman.core.request import ChatPrompt, GenerationRequest, Prompt, TextPrompt, TokenPrompt
from dragoman.engines.base import Engine

_LARGE_MESSAGES = 64
_LARGE_TOOLS = 32
_LARGE_CHARACTERS = 32 * 1024


async def token_bounds(engine: Engine, requests: Sequence[GenerationRequest]) -> tuple[int, int]:
    """Return the tokens of all prompts, and the most that all their candidates may have. Raises core.errors."""
    prompt_tokens = max_completion_tokens = 0
    for request in requests:
        count = await engine.count_tokens(request.prompt)
        prompt_tokens += count
        max_completion_tokens += _max_completion_tokens(engine.context_length, request, count)
    return prompt_tokens, max_completion_tokens


def is_large_prompt(prompt: Prompt) -> bool:
    """Whether rendering and tokenizing the prompt may take long, so that its sender is checked first."""
    match prompt:
        case ChatPrompt(messages=messages, tools=tools, template=template, template_arguments=arguments):
            return (
                template is not None
                or bool(arguments)
                or (tools is not None and len(tools.tools) > _LARGE_TOOLS)
                or len(messages) > _LARGE_MESSAGES
                or sum(len(message.content) for message in messages) > _LARGE_CHARACTERS
            )
        case TextPrompt(text=text):
            return len(text) > _LARGE_CHARACTERS
        case TokenPrompt(token_ids=token_ids):
            return len(token_ids) > _LARGE_CHARACTERS


def _max_completion_tokens(context_length: int | None, request: GenerationRequest, prompt_tokens: int) -> int:
    if context_length is None:  # The engine has died since it counted.
        raise ModelLoading("The model is being loaded", retry_after=1)
    available = context_length - prompt_tokens
    if available < 1:
        raise ContextOverflow(prompt_tokens, context_length, "Shorten the prompt.")
    max_tokens = request.sampling.max_tokens
    return (request.best_of or request.n) * (available if max_tokens is None else min(max_tokens, available))
