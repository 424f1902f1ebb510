"""What the echo engine tells of its tokens: each had to come."""

from dragoman.core.events import TokenLogprobs, TopLogprob


def certain_logprobs(token: int, top: int) -> TokenLogprobs:
    """A byte of text. `top`: how many likeliest tokens are told; the one that is echoed is the only one there is."""
    piece = bytes((token,))
    return TokenLogprobs(token, piece, 0.0, [TopLogprob(token, piece, 0.0)] if top else [])


def prompt_logprobs(prompt: bytes, top: int) -> list[TokenLogprobs]:
    """A prompt's bytes. Nothing comes before the first, so it has no probability."""
    [first, *rest] = prompt
    return [TokenLogprobs(first, bytes((first,)), None, []), *(certain_logprobs(token, top) for token in rest)]
