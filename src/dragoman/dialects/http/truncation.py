"""Room for the answer: long conversations are truncated, other prompts that are too long are rejected."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from dragoman.core.errors import ContextOverflow
from dragoman.core.request import ChatPrompt, GenerationRequest
from dragoman.core.services import VisibleModels
from dragoman.core.tasks import Task

MAX_DEFAULT_RESERVED_TOKENS = 1024
"""Tokens reserved for an answer without `max_tokens`; at most a fifth of the context."""


class PromptTooLong(ContextOverflow):
    """The prompt leaves less room than `max_tokens`."""

    def __init__(self, prompt_tokens: int, max_tokens: int, context_length: int) -> None:
        super().__init__(prompt_tokens, context_length, "")
        self.message = (
            f"The prompt has {prompt_tokens} tokens and max_tokens is {max_tokens}; "
            f"the model's context length is {context_length} tokens"
        )


class TruncationPlan:
    """The order in which messages of a conversation are dropped, and how many may be dropped.

    Turns go first, oldest first, until the first remaining turn is the user's; then system messages. The last message
    stays.
    """

    def __init__(self, prompt: ChatPrompt) -> None:
        self._prompt = prompt
        history = prompt.messages[:-1]
        turns = [index for index, message in enumerate(history) if message.role != "system"]
        systems = [index for index, message in enumerate(history) if message.role == "system"]
        self._drop_order = [*turns, *systems]
        counts_before_user = [count for count, index in enumerate(turns) if count and history[index].role == "user"]
        self.drop_counts: list[int] = [0, *counts_before_user, *range(max(1, len(turns)), len(self._drop_order) + 1)]
        """Numbers of messages that may be dropped, ascending."""

    def drop_first(self, count: int) -> ChatPrompt:
        """Return the conversation without the first `count` messages of the order."""
        dropped = set(self._drop_order[:count])
        remaining = (message for index, message in enumerate(self._prompt.messages) if index not in dropped)
        return msgspec.structs.replace(self._prompt, messages=tuple(remaining))


class FittedRequests(NamedTuple):
    """Requests that fit, and how many messages were dropped from all of them."""

    requests: list[Task]
    dropped_messages: int


class ContextWindowFitter:
    """Fits requests to their model's context window, so that every answer has the room it asks for."""

    def __init__(self, models: VisibleModels, plan: Callable[[ChatPrompt], TruncationPlan] = TruncationPlan) -> None:
        """`plan` says in which order messages are dropped."""
        self._models = models
        self._plan = plan

    async def fit(self, requests: Iterable[Task]) -> FittedRequests:
        """Drop messages of conversations that are too long. Raises PromptTooLong where that is not enough."""
        fitted: list[Task] = []
        dropped_messages = 0
        for request in requests:
            if not isinstance(request, GenerationRequest):
                fitted.append(request)
                continue
            fitting, dropped = await self._fit(request)
            fitted.append(fitting)
            dropped_messages += dropped
        return FittedRequests(fitted, dropped_messages)

    async def _fit(self, request: GenerationRequest) -> tuple[GenerationRequest, int]:
        model = self._models.find_model(request.model)
        if model is None or model.context_length is None:
            return request, 0  # admission reports why it cannot be answered
        context, max_tokens = model.context_length, request.sampling.max_tokens
        dropped = 0
        if isinstance(request.prompt, ChatPrompt):
            plan = self._plan(request.prompt)
            reserved_tokens = max_tokens or min(MAX_DEFAULT_RESERVED_TOKENS, context // 5)
            dropped = await self._smallest_drop_count(request.model, plan, context - reserved_tokens)
            request = msgspec.structs.replace(request, prompt=plan.drop_first(dropped))
        if max_tokens is not None:
            await self._check_context_window(request, max_tokens, context)
        return request, dropped

    async def _smallest_drop_count(self, model: str, plan: TruncationPlan, max_prompt_tokens: int) -> int:
        """Return the smallest drop count that leaves at most `max_prompt_tokens`; the largest if none does."""
        low, high = 0, len(plan.drop_counts) - 1
        probe = low  # most conversations fit as they are
        while low < high:
            if await self._fits(model, plan.drop_first(plan.drop_counts[probe]), max_prompt_tokens):
                high = probe
            else:
                low = probe + 1
            probe = (low + high) // 2
        return plan.drop_counts[high]

    async def _fits(self, model: str, prompt: ChatPrompt, max_prompt_tokens: int) -> bool:
        try:
            return await self._models.count_tokens(model, prompt) <= max_prompt_tokens
        except ContextOverflow:
            return False

    async def _check_context_window(self, request: GenerationRequest, max_tokens: int, context: int) -> None:
        tokens = await self._models.count_tokens(request.model, request.prompt)
        if tokens + max_tokens > context:
            raise PromptTooLong(tokens, max_tokens, context)
