"""Checks of a request's token ids, for engines that sample themselves."""

from collections.abc import Iterable, Sequence

from dragoman.core.errors import BadRequest


def check_token_ids(parameter: str, token_ids: Iterable[int], vocabulary_size: int) -> None:
    """Reject ids that are not in the vocabulary. Raises BadRequest for the first one."""
    for token in token_ids:
        if not 0 <= token < vocabulary_size:
            raise BadRequest(f"{parameter} must hold token ids from 0 to {vocabulary_size - 1}, got {token}", parameter)


def check_resume_token_ids(
    resume_token_ids: Sequence[Sequence[int]], *, n: int, logprobs: int | None, vocabulary_size: int
) -> None:
    """Reject tokens to resume after that are invalid before any is replayed. Raises BadRequest."""
    if not resume_token_ids:
        return
    if len(resume_token_ids) != n:
        raise BadRequest(
            f"resume_token_ids must hold the tokens of each of the {n} choices, got those of {len(resume_token_ids)}",
            "resume_token_ids",
        )
    if logprobs is not None:
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
