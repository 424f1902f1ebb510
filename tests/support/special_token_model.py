"""A tiny model with random weights whose vocabulary is bytes and given special tokens.

Every text has one split into tokens, so that the same tokens mean the same text and the same special tokens.
"""

from collections.abc import Collection
from pathlib import Path

import gguf

from dragoman.engines.llama.native.libraries.llama_cpp import LlamaCpp, packaged_llama_cpp
from dragoman.engines.llama.native.model import Model
from tests.support.gguf_files import write_tiny_model

_PRINTED = (*range(33, 127), *range(161, 173), *range(174, 256))
"""Bytes that GPT-2's vocabulary writes as the characters with their numbers."""


def load_special_token_model(path: Path, special_tokens: Collection[str]) -> Model:
    """Write the file, and load it. A prompt begins with no token of its own."""
    tokens = ["<unk>", "<s>", "</s>", *_byte_texts(), *sorted(special_tokens)]
    kinds = (
        [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * len(special_tokens)
    )
    vocabulary = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.merges": ["ÿ þ"],  # in no text: llama.cpp wants one
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * len(tokens),
        "tokenizer.ggml.token_type": [int(kind) for kind in kinds],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
    }
    return Model(LlamaCpp(packaged_llama_cpp()), write_tiny_model(path, vocabulary=vocabulary))


def _byte_texts() -> list[str]:
    """Return what stands for each byte in the vocabulary."""
    others = iter(range(256, 512))
    return [chr(byte) if byte in _PRINTED else chr(next(others)) for byte in range(256)]
