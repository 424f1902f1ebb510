"""A model file in memory: its weights, its vocabulary and its chat template."""

import ctypes
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dragoman.engines.llama.arrays import TokenArray
from dragoman.engines.llama.native.control_tokens import SPECIAL_ATTRIBUTES, ControlTokenSplitter, VocabularyEntry
from dragoman.engines.llama.native.libraries.binding import Library
from dragoman.prompt.named_templates import join_templates


class ModelError(Exception):
    """The model cannot be served. The message is one line for a person."""


class Vocabulary:
    """Converts text to token ids and back. Thread-safe: llama.cpp only reads here."""

    def __init__(self, library: Library, vocabulary: int) -> None:
        self._library = library
        self._vocabulary = vocabulary
        self.size: int = library.llama_vocab_n_tokens(vocabulary)
        self.end_token_ids = frozenset(
            token for token in range(self.size) if library.llama_vocab_is_eog(vocabulary, token)
        )
        """Every token that ends an answer: llama.cpp reads them from the file (EOS, EOT, EOM).

        The engine process adds that of the chat template, if the file lacks it (process.turn_end).
        """
        self.bos_text = self._special_text(library.llama_vocab_bos(vocabulary))
        self.eos_text = self._special_text(library.llama_vocab_eos(vocabulary))
        self._adds_bos: bool = library.llama_vocab_get_add_bos(vocabulary)
        self._pieces: dict[int, bytes] = {}
        self.control_tokens = ControlTokenSplitter(self._special_entries())
        self._max_piece_bytes = max(len(self.piece(token)) for token in range(self.size))

    def tokenize(self, text: str, *, add_special: bool = True) -> TokenArray:
        """Tokenize `text`. The text of special tokens becomes special tokens.

        `add_special`: BOS comes first if the model expects it, unless the text already begins with it.
        """
        add_special = add_special and not (self._adds_bos and self.bos_text and text.startswith(self.bos_text))
        return self._tokenize(text.encode(), add_special=add_special, parse_special=True)

    def tokenize_rendered(self, text: str, literal_offsets: Sequence[int]) -> TokenArray:
        """Tokenize like `tokenize`, but let no character at `literal_offsets` be part of a special token."""
        first, last = self.framing_of(text, literal_offsets)
        return np.array(first + self.tokenize_in_place(text, literal_offsets) + last, dtype=np.int32)

    def framing_of(self, text: str, literal_offsets: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the special tokens before and after a rendered text: none if it begins with its own BOS."""
        begins_with_bos = self._adds_bos and self.bos_text and text.startswith(self.bos_text)
        is_framed = begins_with_bos and bisect_left(literal_offsets, len(self.bos_text)) == 0
        return ([], []) if is_framed else self.framing()

    def tokenize_in_place(self, text: str, literal_offsets: Sequence[int]) -> list[int]:
        """Tokenize like `tokenize_rendered`, and add no special tokens at the beginning and at the end."""
        tokens: list[int] = []
        for part in self.control_tokens.split(text, literal_offsets):
            if isinstance(part, int):
                tokens.append(part)
            else:
                tokens += self.tokenize_plain(part[0].encode())
                for piece in part[1:]:
                    tokens += self._tokenize_continuation(piece)
        return tokens

    def framing(self) -> tuple[list[int], list[int]]:
        """Return the special tokens that the model expects before a text, and those after it."""
        tokens = self._tokenize(b"", add_special=True, parse_special=False).tolist()
        first = min(int(self._adds_bos), len(tokens))
        return tokens[:first], tokens[first:]

    def pair_separator(self) -> list[int]:
        """Return the special tokens between two texts that the model reads together."""
        library, vocabulary = self._library, self._vocabulary
        eos = [library.llama_vocab_eos(vocabulary)] if library.llama_vocab_get_add_eos(vocabulary) else []
        return eos + ([library.llama_vocab_sep(vocabulary)] if library.llama_vocab_get_add_sep(vocabulary) else [])

    def tokenize_plain(self, text: bytes) -> list[int]:
        """Tokenize UTF-8 text without special tokens and without BOS."""
        return list(map(int, self._tokenize(text, add_special=False, parse_special=False)))

    def tokenize_fragment(self, text: str) -> list[int]:
        """Tokenize text from the middle of another one. The text of special tokens becomes special tokens."""
        return list(map(int, self._tokenize(text.encode(), add_special=False, parse_special=True)))

    def special_token(self, text: str) -> int | None:
        """Return the special token with this text. None if it does not exist."""
        tokens = self.tokenize_fragment(text)
        return tokens[0] if len(tokens) == 1 and self.is_special(tokens[0]) else None

    def min_token_count(self, text: str) -> int:
        """Return a lower bound of the number of tokens of `text`, without tokenizing it."""
        return len(text.encode()) // max(1, self._max_piece_bytes)

    def piece(self, token: int) -> bytes:
        """Return the bytes of `token`, which may be part of a character, or the text of a special token."""
        if (piece := self._pieces.get(token)) is None:
            piece = self._pieces[token] = self._read_piece(token)
        return piece

    def entry_text(self, token: int) -> str:
        """Return the token as the file writes it, such as `Ġthe` or `▁the`."""
        text: bytes = self._library.llama_vocab_get_text(self._vocabulary, token)
        return text.decode(errors="replace")

    def is_special(self, token: int) -> bool:
        """Whether the token is markup of the model rather than text."""
        return bool(self._library.llama_vocab_is_control(self._vocabulary, token)) or token in self.end_token_ids

    def _tokenize_continuation(self, text: str) -> list[int]:
        """Tokenize plain text that follows other text: SentencePiece would put a space in front of it."""
        break_tokens = self.tokenize_plain(b"\n")
        tokens = self.tokenize_plain(f"\n{text}".encode())
        follows = tokens[: len(break_tokens)] == break_tokens
        return tokens[len(break_tokens) :] if follows else self.tokenize_plain(text.encode())

    def _special_entries(self) -> Iterator[VocabularyEntry]:
        """Yield the tokens that are not plain text."""
        for token in range(self.size):
            attributes: int = self._library.llama_vocab_get_attr(self._vocabulary, token)
            if attributes & SPECIAL_ATTRIBUTES:
                text: bytes = self._library.llama_vocab_get_text(self._vocabulary, token)
                yield VocabularyEntry(token, text.decode(errors="surrogateescape"), attributes)

    def _tokenize(self, text: bytes, *, add_special: bool, parse_special: bool) -> TokenArray:
        capacity = len(text) + 4
        while True:
            tokens = np.empty(capacity, dtype=np.int32)
            count: int = self._library.llama_tokenize(
                self._vocabulary, text, len(text), tokens.ctypes.data, capacity, add_special, parse_special
            )
            if count >= 0:
                return tokens[:count].copy()
            capacity = -count  # Few vocabularies need more tokens than there are bytes.

    def _read_piece(self, token: int) -> bytes:
        length = 64
        while True:
            buffer = ctypes.create_string_buffer(length)
            written = self._library.llama_token_to_piece(self._vocabulary, token, buffer, length, 0, True)
            if written >= 0:
                return buffer.raw[:written]
            length = -written

    def _special_text(self, token: int) -> str:
        return self._read_piece(token).decode(errors="replace") if token >= 0 else ""


class Model:
    """The weights of one GGUF file. `close` frees them; before that, every context of the model must be closed."""

    def __init__(self, library: Library, path: Path) -> None:
        """Load the file. Raises ModelError with llama.cpp's own reason when it cannot be served."""
        self.library = library
        self.path = path
        library.recent_log.clear()
        handle = library.llama_model_load_from_file(str(path).encode(), library.llama_model_default_params())
        if not handle:
            raise ModelError(f"{path} cannot be loaded: {logged_reason(library)}")
        self.handle: int = handle
        self.has_recurrent_state = bool(
            library.llama_model_is_recurrent(handle) or library.llama_model_is_hybrid(handle)
        )
        """Whether layers keep one state for all tokens of a sequence, beside attention (hybrid) or without it."""
        self.sliding_window: int = library.llama_model_n_swa(handle)
        """The most tokens that some layers attend to. 0: all layers attend to all tokens."""
        self._reject_unsupported(path)
        self.vocabulary = Vocabulary(library, library.llama_model_get_vocab(handle))
        self.trained_context_length: int = library.llama_model_n_ctx_train(handle)
        self.rerank_template = self._chat_template(b"rerank")
        """Of a reranker, with `{query}` and `{document}`. None: it reads both with separators."""
        self.chat_template = join_templates(self._chat_template(None), self._chat_template(b"tool_use"))
        """With the file's template for tools, if there is one."""

    def close(self) -> None:
        """Free the weights."""
        self.library.llama_model_free(self.handle)

    def _chat_template(self, name: bytes | None) -> str | None:
        template: bytes | None = self.library.llama_model_chat_template(self.handle, name)
        return template.decode(errors="replace") if template else None

    def _reject_unsupported(self, path: Path) -> None:
        library, handle = self.library, self.handle
        kinds = {
            "an encoder": library.llama_model_has_encoder(handle),
            "a diffusion decoder": library.llama_model_is_diffusion(handle),
        }
        for kind, present in kinds.items():
            if present:
                self.close()
                raise ModelError(
                    f"{path} has {kind}; the embedded engine serves models that generate one token after another"
                )
        if self.has_recurrent_state and not library.supports_recurrent:
            self.close()
            raise ModelError(f"{path} has a recurrent state; {library.pinned} cannot serve it, llama.cpp itself can")


def logged_reason(library: Library) -> str:
    """Return why the last call failed: llama.cpp logs the cause first and its consequences after it."""
    failure_words = ("error", "fail", "invalid")
    logged = next((line for line in library.recent_log if any(map(line.count, failure_words))), "no reason was logged")
    return logged.partition("\n")[0]
