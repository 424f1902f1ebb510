"""A vocabulary without a model: a token is a byte."""

from dragoman.engines.echo.engine import VOCABULARY_SIZE, ByteVocabulary


class ByteGrammarVocabulary(ByteVocabulary):
    """Implements engines.constraint.GrammarVocabulary."""

    size = VOCABULARY_SIZE

    def tokenize_plain(self, text: bytes) -> list[int]:
        return list(text)
