"""What a client learns when the next token of a choice cannot be sampled."""

from dragoman.core.errors import BadRequest, EngineFailed
from dragoman.engines.llama.batching.sampler import LogitsNotFinite, NoTokenAllowed
from dragoman.engines.llama.batching.sequence import EngineRequest
from dragoman.output.constraint import ConstraintFailed


def sampling_error(
    request: EngineRequest, failure: NoTokenAllowed | LogitsNotFinite | ConstraintFailed
) -> BadRequest | EngineFailed:
    """Return the error that ends the request."""
    match failure:
        case LogitsNotFinite():
            return EngineFailed("The model computed values that are no numbers for the next token")
        case ConstraintFailed():
            return EngineFailed(f"The response format could not be followed any further: {failure}")
    if request.constraint is None:
        parameter = "bad_words" if request.sampling.allowed_token_ids is None else "allowed_token_ids"
        return BadRequest("allowed_token_ids, bad_words and min_tokens leave no token to choose from", parameter)
    return EngineFailed("The response format leaves no token to choose from that the request allows")
