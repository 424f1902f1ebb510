"""Builds responses that also report tokens: those of prompt and answer, the prompt's log-probabilities, usage so far.

These are vLLM's `return_token_ids`, `prompt_logprobs` and `continuous_usage_stats`.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from dragoman.core.events import AnyDelta, Event, PromptTokens, Started, TokenLogprobs, TopLogprob, Usage
from dragoman.dialects.http.response_builder import ChoiceState
from dragoman.dialects.openai.logprobs import plain_text
from dragoman.dialects.openai.response_builder import ResponseHead
from dragoman.dialects.openai.wire import CompletionUsage
from dragoman.dialects.vendors.infermatic import wire
from dragoman.dialects.vendors.infermatic.response_builder import (
    AnswerOptions,
    ChatResponseBuilder,
    TextResponseBuilder,
)


class ReportOptions(NamedTuple):
    """What is reported of the tokens."""

    token_ids: bool
    prompt_logprobs: bool
    usage_so_far: bool
    prompt_tokens: bool
    """Whether the engine must report them. How many a single prompt has, it reports in any case."""


NO_REPORT = ReportOptions(False, False, False, False)


class TokenReport:
    """The tokens of all choices so far."""

    def __init__(self, options: ReportOptions) -> None:
        self._options = options
        self._started: Started | None = None
        self._prompts: dict[int, PromptTokens] = {}
        self._tokens: defaultdict[int, int] = defaultdict(int)
        self._token_ids: defaultdict[int, list[int]] = defaultdict(list)
        self._sent: defaultdict[int, int] = defaultdict(int)
        """The number of each choice's tokens that are in earlier chunks."""
        self._prompts_sent: set[int] = set()

    def observe(self, event: Event) -> None:
        """Add what an event has of tokens."""
        if isinstance(event, Started):
            self._started = event
        elif isinstance(event, PromptTokens):
            self._prompts[event.index] = event
        elif isinstance(event, AnyDelta):
            self._tokens[event.index] += event.tokens
            self._token_ids[event.index] += event.token_ids

    def take_token_ids(self, index: int) -> list[int] | None:
        """Return the choice's tokens that no chunk has yet; None if they are not wanted."""
        if not self._options.token_ids:
            return None
        sent, self._sent[index] = self._sent[index], len(self._token_ids[index])
        return self._token_ids[index][sent:]

    def take_prompt_token_ids(self, index: int) -> list[int] | None:
        """Return the tokens of the choice's prompt, for its first chunk; None for later ones or if not wanted."""
        if not self._options.token_ids or index in self._prompts_sent:
            return None
        self._prompts_sent.add(index)
        return self._prompts[index].prompt_token_ids

    def usage_so_far(self, index: int) -> CompletionUsage | None:
        """Return the usage of one choice and its prompt; None if it is not wanted."""
        if not self._options.usage_so_far:
            return None
        started = self._started
        prompt_tokens = started.prompt_tokens if started else len(self._prompts[index].prompt_token_ids)
        completion_tokens = self._tokens[index]
        return CompletionUsage(
            completion_tokens=completion_tokens,
            prompt_tokens=prompt_tokens,
            total_tokens=prompt_tokens + completion_tokens,
        )

    def token_ids(self, index: int) -> list[int] | UnsetType:
        """Return all tokens of a choice, if they are wanted."""
        return self._token_ids[index] if self._options.token_ids else UNSET

    def prompt_token_ids(self, index: int) -> list[int] | UnsetType:
        """Return the tokens of the choice's prompt, if they are wanted."""
        return self._prompts[index].prompt_token_ids if self._options.token_ids else UNSET

    def prompt_logprobs(self, index: int) -> wire.PromptLogprobs | UnsetType:
        """Return the log-probabilities of the choice's prompt, if they are wanted."""
        if not self._options.prompt_logprobs:
            return UNSET
        return [_by_token_id(entry) for entry in self._prompts[index].logprobs]


def _by_token_id(entry: TokenLogprobs) -> dict[str, wire.PromptTokenLogprob] | None:
    """Return a token of the prompt, then the likeliest ones at its position."""
    if entry.logprob is None or entry.rank is None:
        return None
    own = TopLogprob(entry.token_id, entry.token, entry.logprob)
    others = [(rank, top) for rank, top in enumerate(entry.top, 1) if top.token_id != own.token_id]
    return {
        str(token.token_id): wire.PromptTokenLogprob(token.logprob, rank, plain_text(token.token_id, token.token))
        for rank, token in ((entry.rank, own), *others)
    }


class ReportingChatBuilder(ChatResponseBuilder):
    """Builds chat completions with a token report."""

    text_chunks_are_alike = False

    def __init__(self, head: ResponseHead, options: AnswerOptions, report: ReportOptions) -> None:
        super().__init__(head, options)
        self._report = TokenReport(report)

    def note(self, event: Event) -> None:
        self._report.observe(event)
        super().note(event)

    def _completion(self, usage: Usage) -> wire.ChatCompletion:
        return msgspec.structs.replace(
            super()._completion(usage),
            prompt_token_ids=self._report.prompt_token_ids(0),
            prompt_logprobs=self._report.prompt_logprobs(0),
        )

    def _choice(self, choice: ChoiceState) -> wire.ChatChoice:
        return msgspec.structs.replace(super()._choice(choice), token_ids=self._report.token_ids(choice.index))

    def _chunk(
        self,
        choices: Sequence[wire.ChatChunkChoice],
        usage: CompletionUsage | None = None,
        _prompt_token_ids: list[int] | None = None,
    ) -> bytes:
        if not choices:
            return super()._chunk([], usage)
        [choice] = choices
        report, index = self._report, choice.index
        choice = msgspec.structs.replace(choice, token_ids=report.take_token_ids(index))
        return super()._chunk([choice], report.usage_so_far(index), report.take_prompt_token_ids(index))


class ReportingTextBuilder(TextResponseBuilder):
    """Builds text completions with a token report."""

    text_chunks_are_alike = False

    def __init__(self, head: ResponseHead, options: AnswerOptions, report: ReportOptions) -> None:
        super().__init__(head, options)
        self._report = TokenReport(report)

    def note(self, event: Event) -> None:
        self._report.observe(event)
        super().note(event)

    def _choice(self, choice: ChoiceState) -> wire.TextChoice:
        report, index = self._report, choice.index
        return msgspec.structs.replace(
            super()._choice(choice),
            token_ids=report.token_ids(index),
            prompt_token_ids=report.prompt_token_ids(index),
            prompt_logprobs=report.prompt_logprobs(index),
        )

    def _chunk(self, choices: Sequence[wire.TextChunkChoice], usage: CompletionUsage | None = None) -> bytes:
        if not choices:
            return super()._chunk([], usage)
        [choice] = choices
        report, index = self._report, choice.index
        choice = msgspec.structs.replace(
            choice,
            token_ids=report.take_token_ids(index),
            prompt_token_ids=report.take_prompt_token_ids(index),
        )
        return super()._chunk([choice], report.usage_so_far(index))
