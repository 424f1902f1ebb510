"""A vocabulary without a model, in which each byte is a token."""

from dragoman.engines.echo.engine import VOCABULARY_SIZE, ByteVocabulary


class ByteGrammarVocabulary(ByteVocabulary):
    """Implements output.constraint.GrammarVocabulary."""

    size = VOCABULARY_SIZE

    def tokenize_plain(self, text: bytes) -> list[int]:
        return list(text)
