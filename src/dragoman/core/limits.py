"""The ranges that every engine accepts, checked in one place for all dialects (docs/sampling.md, "Parameters").

A dialect may be narrower or clamp first; nothing reaches an engine outside these ranges. Token ids depend on the
model's vocabulary: the engine checks them, with the functions at the end.
"""

import math
import operator
from collections.abc import Iterable, Sequence

import msgspec

from dragoman.core.embedding import EmbeddingInput, TextPair
from dragoman.core.errors import BadRequest
from dragoman.core.request import (
    ChatPrompt,
    GenerationRequest,
    Message,
    Part,
    Prompt,
    PromptTruncation,
    SamplingParams,
    TextPart,
    TextPrompt,
    TokenPrompt,
)
from dragoman.core.tasks import Task

MAX_CHOICES = 16
MAX_MESSAGES = 4096
"""Messages of one conversation."""
MAX_INPUTS = 2048
"""Texts of one request for embeddings."""
MAX_DOCUMENTS = 1000
"""Documents of one request for reranking."""
MAX_INPUT_TOKENS = 300_000
"""Tokens of all inputs of such a request."""
MAX_STOP_STRINGS = 64
MAX_STOP_STRING_LENGTH = 256
MAX_STOP_TOKEN_IDS = 64
MAX_LOGIT_BIAS_ENTRIES = 1024
MAX_ALLOWED_TOKEN_IDS = 65_536
MAX_BAD_WORDS = 256
MAX_BAD_WORD_LENGTH = 256
MAX_SEED = 2**64 - 1
MAX_TOKENS = 2**31 - 1
"""Engines count tokens and their ids in signed 32-bit integers, which exceeds any context."""

_RANGES: tuple[tuple[str, float, float], ...] = (
    ("temperature", 0, 2),
    ("top_p", 0, 1),
    ("min_p", 0, 1),
    ("presence_penalty", -2, 2),
    ("frequency_penalty", -2, 2),
)
_ranged_values = operator.attrgetter(*(parameter for parameter, _, _ in _RANGES))
_DEFAULT_VALUES = _ranged_values(SamplingParams())

_MAX_REQUEST_TOKENS = MAX_TOKENS * MAX_CHOICES

_LARGE_MESSAGES = 64
_LARGE_TOOLS = 32
_LARGE_CHARACTERS = 32 * 1024


def is_token_count(count: int) -> bool:
    """Whether a request may have so many tokens: another server may report any number."""
    return 0 <= count <= _MAX_REQUEST_TOKENS


def check_range(parameter: str, value: float, low: float, high: float) -> None:
    """Raise BadRequest naming the parameter, the range and the value, unless low <= value <= high."""
    if not low <= value <= high:
        raise BadRequest(f"{parameter} must be between {low:g} and {high:g}, got {value:g}", parameter)


def is_large_task(task: Task) -> bool:
    """Whether rendering and tokenizing what it asks for may take long, so that its sender is checked first."""
    if isinstance(task, GenerationRequest):
        return is_large_prompt(task.prompt)
    return sum(map(input_characters, task.inputs)) > _LARGE_CHARACTERS


def input_characters(each: EmbeddingInput) -> int:
    """Count the characters of an input, or its token ids."""
    match each:
        case TextPair(query, document):
            return len(query) + len(document)
        case TextPrompt(text=text):
            return len(text)
        case TokenPrompt(token_ids=token_ids):
            return len(token_ids)


def is_large_prompt(prompt: Prompt) -> bool:
    """Whether fetching, rendering and tokenizing the prompt may take long, so that its sender is checked first."""
    if isinstance(prompt, ChatPrompt):
        return (
            prompt.template is not None
            or bool(prompt.template_arguments)
            or (prompt.tools is not None and len(prompt.tools.tools) > _LARGE_TOOLS)
            or len(prompt.messages) > _LARGE_MESSAGES
            or sum(map(_message_characters, prompt.messages)) > _LARGE_CHARACTERS
        )
    return len(prompt.text if isinstance(prompt, TextPrompt) else prompt.token_ids) > _LARGE_CHARACTERS


def _message_characters(message: Message) -> int:
    if isinstance(message.content, str):
        return len(message.content)
    return sum(map(_part_characters, message.content))


def _part_characters(part: Part) -> int:
    # How large an image is that must be fetched is not known yet, and 3 KB of another may become 50 MB of pixels.
    return len(part.text) if isinstance(part, TextPart) else _LARGE_CHARACTERS + 1


def excludes_tokens(sampling: SamplingParams) -> bool:
    """Whether there are tokens that the request itself forbids."""
    return sampling.allowed_token_ids is not None or bool(sampling.bad_words)


def check_sampling(sampling: SamplingParams, *, min_max_tokens: int = 1) -> SamplingParams:
    """Return `sampling`, or raise BadRequest for the first value out of its range.

    Counts that no context and no vocabulary holds are lowered: they mean all of it anyway, and no engine counts so far.
    `min_max_tokens` is 0 for a request that may have no answer.
    """
    if (values := _ranged_values(sampling)) != _DEFAULT_VALUES:
        for (parameter, low, high), value in zip(_RANGES, values, strict=True):
            check_range(parameter, value, low, high)
    if not (sampling.repetition_penalty > 0 and math.isfinite(sampling.repetition_penalty)):
        raise BadRequest(
            f"repetition_penalty must be greater than 0 and finite, got {sampling.repetition_penalty:g}",
            "repetition_penalty",
        )
    if sampling.top_k < -1:
        raise BadRequest(f"top_k must be -1 or more, got {sampling.top_k}", "top_k")
    if sampling.max_tokens is not None or sampling.min_tokens:
        _check_length(sampling, min_max_tokens)
    if sampling.stop or sampling.stop_token_ids:
        _check_stops(sampling)
    if sampling.bad_words or sampling.allowed_token_ids is not None:
        _check_exclusions(sampling)
    if sampling.logit_bias:
        _check_logit_bias(sampling.logit_bias)
    if sampling.seed is not None and not 0 <= sampling.seed <= MAX_SEED:
        raise BadRequest(f"seed must be between 0 and 2^64 - 1, got {sampling.seed}", "seed")
    if max(sampling.max_tokens or 0, sampling.min_tokens, sampling.top_k) <= MAX_TOKENS:
        return sampling
    return msgspec.structs.replace(
        sampling,
        max_tokens=None if sampling.max_tokens is None else min(sampling.max_tokens, MAX_TOKENS),
        min_tokens=min(sampling.min_tokens, MAX_TOKENS),
        top_k=min(sampling.top_k, MAX_TOKENS),
    )


def _check_length(sampling: SamplingParams, min_max_tokens: int) -> None:
    if sampling.max_tokens is not None and sampling.max_tokens < min_max_tokens:
        raise BadRequest(f"max_tokens must be at least {min_max_tokens}, got {sampling.max_tokens}", "max_tokens")
    if sampling.min_tokens < 0:
        raise BadRequest(f"min_tokens must be 0 or more, got {sampling.min_tokens}", "min_tokens")
    if sampling.max_tokens is not None and sampling.min_tokens > sampling.max_tokens:
        raise BadRequest(
            f"min_tokens must not be above max_tokens, got {sampling.min_tokens} and {sampling.max_tokens}",
            "min_tokens",
        )


def _check_stops(sampling: SamplingParams) -> None:
    if len(sampling.stop) > MAX_STOP_STRINGS:
        raise BadRequest(f"stop takes at most {MAX_STOP_STRINGS} strings, got {len(sampling.stop)}", "stop")
    for stop in sampling.stop:
        if not 1 <= len(stop) <= MAX_STOP_STRING_LENGTH:
            raise BadRequest(
                f"stop strings have 1 to {MAX_STOP_STRING_LENGTH} characters, got one of {len(stop)}", "stop"
            )
    if len(sampling.stop_token_ids) > MAX_STOP_TOKEN_IDS:
        raise BadRequest(
            f"stop_token_ids takes at most {MAX_STOP_TOKEN_IDS} ids, got {len(sampling.stop_token_ids)}",
            "stop_token_ids",
        )
    _check_token_ids("stop_token_ids", sampling.stop_token_ids)


def _check_exclusions(sampling: SamplingParams) -> None:
    allowed, words = sampling.allowed_token_ids, sampling.bad_words
    if allowed is not None:
        if not 1 <= len(allowed) <= MAX_ALLOWED_TOKEN_IDS:
            raise BadRequest(
                f"allowed_token_ids takes 1 to {MAX_ALLOWED_TOKEN_IDS} ids, got {len(allowed)}", "allowed_token_ids"
            )
        _check_token_ids("allowed_token_ids", allowed)
    if len(words) > MAX_BAD_WORDS:
        raise BadRequest(f"bad_words takes at most {MAX_BAD_WORDS} words, got {len(words)}", "bad_words")
    for word in words:
        if not (word.strip() and len(word) <= MAX_BAD_WORD_LENGTH):
            raise BadRequest(
                f"bad_words have 1 to {MAX_BAD_WORD_LENGTH} characters, not only spaces, got one of {len(word)}",
                "bad_words",
            )


def _check_token_ids(parameter: str, token_ids: Iterable[int]) -> None:
    for token in token_ids:
        if not 0 <= token <= MAX_TOKENS:
            raise BadRequest(f"{parameter} must hold token ids, got {str(token)[:40]}", parameter)


def _check_logit_bias(logit_bias: dict[int, float]) -> None:
    if len(logit_bias) > MAX_LOGIT_BIAS_ENTRIES:
        raise BadRequest(
            f"logit_bias takes at most {MAX_LOGIT_BIAS_ENTRIES} entries, got {len(logit_bias)}", "logit_bias"
        )
    _check_token_ids("logit_bias", logit_bias)
    for token, bias in logit_bias.items():
        if not -100 <= bias <= 100:
            raise BadRequest(f"logit_bias must be between -100 and 100, got {bias:g} for token {token}", "logit_bias")


def check_token_ids(parameter: str, token_ids: Iterable[int], vocabulary_size: int) -> None:
    """Reject ids that are not in the vocabulary. Raises BadRequest for the first one."""
    for token in token_ids:
        if not 0 <= token < vocabulary_size:
            raise BadRequest(f"{parameter} must hold token ids from 0 to {vocabulary_size - 1}, got {token}", parameter)


def kept_tokens(truncation: PromptTruncation, context_length: int) -> slice:
    """Return which tokens of a prompt are kept. Raises BadRequest for more tokens than the context has."""
    if truncation.tokens is not None and truncation.tokens > context_length:
        raise BadRequest(
            f"truncate_prompt_tokens must be at most the context length of {context_length}, got {truncation.tokens}",
            "truncate_prompt_tokens",
        )
    kept = max(1, context_length - truncation.answer_tokens) if truncation.tokens is None else truncation.tokens
    return slice(kept) if truncation.side == "right" else slice(-kept, None)


def check_detokenized(parameter: str, token_ids: Sequence[int], vocabulary_size: int, context_length: int) -> None:
    """Reject token ids that no prompt of the model has. Raises BadRequest."""
    if len(token_ids) > context_length:
        raise BadRequest(
            f"{parameter} takes at most the {context_length} tokens of the model's context, got {len(token_ids)}",
            parameter,
        )
    check_token_ids(parameter, token_ids, vocabulary_size)


def check_resume_token_ids(
    resume_token_ids: Sequence[Sequence[int]], *, n: int, has_logprobs: bool, vocabulary_size: int
) -> None:
    """Reject tokens to resume after that are invalid before any is replayed. Raises BadRequest.

    `has_logprobs`: the request wants log-probabilities, of its prompt or of its answer.
    """
    if not resume_token_ids:
        return
    if len(resume_token_ids) != n:
        raise BadRequest(
            f"resume_token_ids must hold the tokens of each of the {n} choices, got those of {len(resume_token_ids)}",
            "resume_token_ids",
        )
    if has_logprobs:
        raise BadRequest(
            "An answer with log-probabilities cannot be resumed: those of its first tokens are not stored",
            "resume_token_ids",
        )
    for tokens in resume_token_ids:
        check_token_ids("resume_token_ids", tokens, vocabulary_size)


def resume_past_end(index: int, given: int, tokens: int) -> BadRequest:
    """Return the error for a choice with `given` tokens to resume after, which ends after `tokens` of them."""
    return BadRequest(
        f"resume_token_ids holds {given} tokens of choice {index}, "
        f"but as this request stands the choice ends with {tokens}",
        "resume_token_ids",
    )
