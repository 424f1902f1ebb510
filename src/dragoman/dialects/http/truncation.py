"""Room for the answer: conversations that are in its way are trimmed, prompts that cannot be are refused."""

from collections.abc import Sequence

import msgspec

from dragoman.core.errors import ContextOverflow
from dragoman.core.jobs import Job, JobDraft, QueueService
from dragoman.core.request import ChatPrompt, GenerationRequest, Prompt
from dragoman.core.service import Caller, EventStream, ServedModel, VisibleModels, find_model

MAX_DEFAULT_RESERVED_TOKENS = 1024
"""Tokens kept for an answer that does not say how many it may have; at most a fifth of the context."""


class PromptTooLong(ContextOverflow):
    """The prompt leaves less room than `max_tokens` asks for."""

    def __init__(self, prompt_tokens: int, max_tokens: int, context_length: int) -> None:
        super().__init__(prompt_tokens, context_length, "")
        self.message = (
            f"The prompt has {prompt_tokens} tokens and max_tokens is {max_tokens}; "
            f"the model's context length is {context_length} tokens"
        )


class TruncationPlan:
    """In which order the messages of a conversation are dropped, and after how many of them it may stop.

    Turns go first, oldest first, until the first one left is the user's; then system messages. The last message stays.
    """

    def __init__(self, prompt: ChatPrompt) -> None:
        self._prompt = prompt
        history = prompt.messages[:-1]
        turns = [index for index, message in enumerate(history) if message.role != "system"]
        systems = [index for index, message in enumerate(history) if message.role == "system"]
        self._drop_order = [*turns, *systems]
        counts_before_user = [count for count, index in enumerate(turns) if count and history[index].role == "user"]
        self.drop_counts: list[int] = [0, *counts_before_user, *range(max(1, len(turns)), len(self._drop_order) + 1)]
        """How many messages may be dropped, ascending."""

    def drop_first(self, count: int) -> ChatPrompt:
        """The conversation without the first `count` messages of the order."""
        dropped = set(self._drop_order[:count])
        remaining = (message for index, message in enumerate(self._prompt.messages) if index not in dropped)
        return msgspec.structs.replace(self._prompt, messages=tuple(remaining))


class ContextWindowFitter:
    """Implements core.jobs.QueueService for one request: its answer has the room it asks for.

    A conversation that is in the way is trimmed; a prompt that cannot be is refused where others cap `max_tokens`.
    """

    def __init__(self, service: QueueService) -> None:
        self._service = service
        self.dropped_messages = 0
        """Messages that were trimmed."""

    @property
    def needs_key(self) -> bool:
        return self._service.needs_key

    async def reject_unknown_key(self, caller: Caller) -> None:
        await self._service.reject_unknown_key(caller)

    async def check_access(self, caller: Caller, model: str | None = None) -> None:
        await self._service.check_access(caller, model)

    async def visible_to(self, caller: Caller) -> VisibleModels:
        return await self._service.visible_to(caller)

    async def count_tokens(self, model: str, prompt: Prompt) -> int:
        return await self._service.count_tokens(model, prompt)

    def models(self) -> list[ServedModel]:
        return self._service.models()

    async def generate(
        self, requests: Sequence[GenerationRequest], caller: Caller, *, streamed: bool = False
    ) -> EventStream:
        fitted = [await self._fit(request) for request in requests]
        return await self._service.generate(fitted, caller, streamed=streamed)

    @property
    def has_queue(self) -> bool:
        return self._service.has_queue

    async def submit(self, draft: JobDraft, caller: Caller) -> Job:
        fitted = [await self._fit(request) for request in draft.requests]
        return await self._service.submit(msgspec.structs.replace(draft, requests=tuple(fitted)), caller)

    async def job(self, job_id: str, caller: Caller) -> Job:
        return await self._service.job(job_id, caller)

    async def cancel_job(self, job_id: str, caller: Caller) -> Job:
        return await self._service.cancel_job(job_id, caller)

    async def follow_job(self, job_id: str, caller: Caller) -> EventStream:
        return await self._service.follow_job(job_id, caller)

    async def _fit(self, request: GenerationRequest) -> GenerationRequest:
        model = find_model(self.models(), request.model)
        if model is None or model.context_length is None:
            return request  # generate says why it cannot be answered
        context, max_tokens = model.context_length, request.sampling.max_tokens
        dropped = 0
        if isinstance(request.prompt, ChatPrompt):
            plan = TruncationPlan(request.prompt)
            reserved_tokens = max_tokens or min(MAX_DEFAULT_RESERVED_TOKENS, context // 5)
            dropped = await self._smallest_drop_count(request.model, plan, context - reserved_tokens)
            request = msgspec.structs.replace(request, prompt=plan.drop_first(dropped))
        if max_tokens is not None:
            await self._check_context_window(request, max_tokens, context)
        self.dropped_messages = dropped
        return request

    async def _smallest_drop_count(self, model: str, plan: TruncationPlan, max_prompt_tokens: int) -> int:
        """The smallest of the trimming's counts that leaves at most `size` tokens; the largest when none does."""
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
            return await self._service.count_tokens(model, prompt) <= max_prompt_tokens
        except ContextOverflow:
            return False

    async def _check_context_window(self, request: GenerationRequest, max_tokens: int, context: int) -> None:
        tokens = await self._service.count_tokens(request.model, request.prompt)
        if tokens + max_tokens > context:
            raise PromptTooLong(tokens, max_tokens, context)
