"""The log-probabilities of a prompt's tokens, for requests that ask for them."""

from collections.abc import Callable

from dragoman.core.events import TokenLogprobs
from dragoman.engines.llama.arrays import Logits
from dragoman.engines.llama.batching.cache import ScheduledChunk
from dragoman.output import logprobs


def add_prompt_logprobs(scheduled: ScheduledChunk, rows: Logits, piece: Callable[[int], bytes]) -> None:
    """Add the log-probabilities of prompt tokens. The logits at one token are those for the next one."""
    sequence = scheduled.sequence
    request, prompt_logprobs, prompt = sequence.request, sequence.prompt_logprobs, sequence.request.prompt
    assert request.prompt_top is not None, "only such a request needs the log-probabilities of its prompt"
    if not prompt_logprobs:
        first = int(prompt[0])
        prompt_logprobs.append(TokenLogprobs(first, piece(first), None, []))
    for position, row in enumerate(rows, scheduled.position):
        # A preempted sequence computes for the second time what it has reported.
        if position + 1 == len(prompt_logprobs) < len(prompt):
            token, with_rank = int(prompt[position + 1]), request.prompt_logprobs is not None
            prompt_logprobs.append(logprobs.token_logprobs(row, token, request.prompt_top, piece, with_rank=with_rank))
