"""Parts of documents of several dialects, assembled and compared as clients do."""

from typing import Any

from dragoman.core.events import TokenLogprobs


def indices(choices: list[Any]) -> list[int]:
    """Return the indices of all choices."""
    return sorted({choice["index"] for choice in choices})


def merge_tool_call(calls: list[Any], piece: Any) -> None:
    """Merge a part of a call as OpenAI's clients do, which rely on calls that begin in the order of their numbers."""
    if piece["index"] == len(calls):
        assert piece["function"]["arguments"] == "", "the name is sent before, and apart from, all arguments"
        calls.append({"id": piece["id"], "function": dict(piece["function"])})
    else:
        assert set(piece) == {"index", "function"}, "the id is sent once"
        assert set(piece["function"]) == {"arguments"}, "the name is sent once"
        calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]


def chat_tokens(content: list[Any]) -> list[Any]:
    """Return the log-probabilities of a chat, token by token."""
    return [
        [token["bytes"], token["logprob"], [[top["bytes"], top["logprob"]] for top in token["top_logprobs"]]]
        for token in content
    ]


def text_tokens(logprobs: Any) -> list[Any]:
    """Return the log-probabilities of a text, token by token."""
    rows = zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True)
    return [list(row) for row in rows]


def top_by_text(token: TokenLogprobs) -> dict[str, float]:
    """Return the likeliest tokens and the token itself by their text; of equal texts the highest."""
    by_text = {top.token.decode(errors="replace"): top.logprob for top in reversed(token.top)}
    assert token.logprob is not None
    if any(top.token_id == token.token_id for top in token.top):
        return by_text
    return {token.token.decode(errors="replace"): token.logprob} | by_text
