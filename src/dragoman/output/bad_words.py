"""Words that an answer must not contain, as vLLM's `bad_words` defines them.

A word is forbidden by its tokens: the last one must not be sampled right after the others, which may be sampled. The
same text in other tokens is not found. https://docs.vllm.ai/en/stable/api/vllm/sampling_params.html
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence

TokenSequence = tuple[int, ...]


def bad_word_tokens(words: Iterable[str], tokenize: Callable[[str], Sequence[int]]) -> list[TokenSequence]:
    """Return the token sequences of these words: each as it stands, and as it stands after a space.

    The second counts only if it is another beginning of the same length, as a word of its own is in most vocabularies.
    Otherwise it would forbid the space, or a part of another word.
    """
    sequences: list[TokenSequence] = []
    for word in words:
        bare = tuple(tokenize(word.lstrip()))
        spaced = tuple(tokenize(f" {word.lstrip()}"))
        sequences.append(bare)
        if bare and spaced and spaced[0] != bare[0] and len(spaced) == len(bare):
            sequences.append(spaced)
    return [sequence for sequence in sequences if sequence]


class BadWords:
    """The forbidden sequences of one choice, and its most recent tokens."""

    def __init__(self, sequences: Iterable[TokenSequence]) -> None:
        self._always: set[int] = set()
        self._after: defaultdict[int, list[tuple[TokenSequence, int]]] = defaultdict(list)
        """The last token but one → the tokens before the last one, and the last one."""
        longest = 0
        for *before, last in sequences:
            if before:
                self._after[before[-1]].append((tuple(before), last))
                longest = max(longest, len(before))
            else:
                self._always.add(last)
        self._recent: deque[int] = deque(maxlen=longest)

    def record(self, token: int) -> None:
        """Add the choice's next token."""
        self._recent.append(token)

    def barred(self) -> list[int]:
        """Return the tokens that would complete a word now."""
        barred = [*self._always]
        if self._recent and (candidates := self._after.get(self._recent[-1])):
            recent = tuple(self._recent)
            barred += [last for before, last in candidates if recent[-len(before) :] == before]
        return barred
