"""Checks and converts the parameters of a request: sampling, lengths, candidates, template."""

from collections.abc import Sequence

from dragoman.core.errors import BadRequest
from dragoman.core.limits import MAX_SEED
from dragoman.core.models import ServedModel
from dragoman.core.request import Message, PromptTruncation, ReasoningEffort, SamplingParams, Verbosity
from dragoman.dialects.http.validation import Violation
from dragoman.dialects.openai.embeddings import truncation
from dragoman.dialects.openai.parse import parse_messages, stop_strings, token_biases
from dragoman.dialects.vendors.infermatic import functions, wire


def parse_conversation(
    messages: Sequence[wire.ReasoningChatMessage], violations: list[Violation], *, image_schemes: Sequence[str] = ()
) -> tuple[Message, ...]:
    """Convert a conversation, which may have calls and results of functions, and images of these schemes."""
    for message in messages:
        if message.function_call is not None or message.role == "function":
            return parse_messages(functions.with_tool_messages(messages), violations, image_schemes=image_schemes)
    return parse_messages(messages, violations, image_schemes=image_schemes)


def sampling_params(sent: wire.CompletionRequest) -> SamplingParams:
    """Convert what is the same in an engine. Raises BadRequest."""
    return SamplingParams(
        max_tokens=max_tokens(sent),
        min_tokens=sent.min_tokens,
        temperature=sent.temperature,
        top_k=sent.top_k,
        top_p=sent.top_p,
        min_p=sent.min_p,
        repetition_penalty=sent.repetition_penalty,
        presence_penalty=sent.presence_penalty,
        frequency_penalty=sent.frequency_penalty,
        logit_bias=token_biases(sent.logit_bias) if sent.logit_bias else {},
        seed=None if sent.seed is None else _seed(sent.seed),
        allowed_token_ids=None if sent.allowed_token_ids is None else tuple(sent.allowed_token_ids),
        bad_words=tuple(sent.bad_words) if sent.bad_words else (),
        stop=stop_strings(sent.stop),
        stop_token_ids=tuple(sent.stop_token_ids) if sent.stop_token_ids else (),
        ignore_eos=sent.ignore_eos,
        include_stop_text=sent.include_stop_str_in_output,
        skip_special_tokens=sent.skip_special_tokens,
        spaces_between_special_tokens=sent.spaces_between_special_tokens,
    )


def max_tokens(sent: wire.CompletionRequest) -> int | None:
    """Return the most tokens of an answer; the newer name counts."""
    return sent.max_tokens if sent.max_completion_tokens is None else sent.max_completion_tokens


def prompt_truncation(sent: wire.CompletionRequest) -> PromptTruncation | None:
    """Return how the prompt is shortened. Raises BadRequest."""
    if sent.truncate_prompt_tokens is None:
        return None
    return truncation(sent.truncate_prompt_tokens, sent.truncation_side or "left", max(1, max_tokens(sent) or 1))


def best_of(sent: wire.CompletionRequest) -> int | None:
    """Return the number of candidates if it differs from that of choices. Raises BadRequest."""
    if sent.best_of is None or sent.best_of == sent.n:
        return None
    if sent.best_of < sent.n:
        raise BadRequest(f"best_of must be at least n, got {sent.best_of} and {sent.n}", "best_of")
    if sent.stream:
        raise BadRequest("best_of cannot be streamed: the best is known when all candidates are complete", "best_of")
    return sent.best_of


def _seed(seed: int) -> int | None:
    """Convert a seed: -1 means none; other negative numbers are taken as unsigned 64-bit ones."""
    if not -(2**63) <= seed <= MAX_SEED:
        raise BadRequest(f"seed must be an integer of at most 64 bits, got {str(seed)[:40]}", "seed")
    return None if seed == -1 else seed if seed >= 0 else seed & MAX_SEED


def opens_turn(messages: Sequence[Message], *, add: bool | None, continue_message: bool) -> bool:
    """Return whether the prompt begins the assistant's turn. Raises BadRequest.

    `add` and `continue_message` are the fields add_generation_prompt and continue_final_message.
    """
    if not continue_message:
        return add is not False
    if add:
        raise BadRequest(
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True.", "continue_final_message"
        )
    if messages and messages[-1].tool_calls:
        raise BadRequest("A message with tool calls cannot be continued", "continue_final_message")
    return False


def verbosity(sent: wire.ChatRequest, served: ServedModel | None) -> Verbosity | None:
    """Convert a verbosity; None: the default, which is `medium`, or one that `drop_params` drops."""
    if sent.verbosity == "medium" or (sent.drop_params and (served is None or not served.takes_verbosity)):
        return None
    return sent.verbosity


def reasoning_effort(sent: wire.SentEffort | None) -> ReasoningEffort | None:
    """Convert an effort. Those above `high` count as it, which is the highest here."""
    return "high" if sent == "xhigh" or sent == "max" else sent
