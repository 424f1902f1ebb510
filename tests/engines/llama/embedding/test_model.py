"""A real model, all-MiniLM-L6-v2, beside its reference. Most tests need its first layer only, which is faster."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from dragoman.core.embedding import EmbeddingInput, ModelKind, TextPair
from dragoman.core.errors import BadRequest
from dragoman.core.events import Embedding, Usage
from dragoman.core.request import PromptTruncation, TextPrompt, TokenPrompt
from dragoman.engines.llama.embedding.batcher import EmbeddingBatcher
from dragoman.engines.llama.embedding.vectors import reranker_score
from dragoman.engines.llama.native.embedding_context import Vectors
from dragoman.engines.llama.native.libraries.binding import ContextOptions
from dragoman.engines.llama.native.loading import load_embedding_model, open_embedding_context
from dragoman.engines.llama.process.embedding_preprocessor import EmbeddingPreprocessor
from dragoman.engines.llama.weights.model_kind import model_kind
from dragoman.engines.llama.wire.messages import EmbedCommand
from tests.support import minilm, tiny_llama
from tests.support.embedding_texts import TEXTS
from tests.support.models import THREADS


class EmbeddingModel:
    """Computes all inputs of a command."""

    def __init__(self, path: Path, *, kind: ModelKind | None = None, batch_tokens: int = 512) -> None:
        kind = model_kind(path) if kind is None else kind
        self._batch_tokens = batch_tokens
        self._model = load_embedding_model(path, None)
        options = ContextOptions(2048, batch_tokens, THREADS)
        self._context = open_embedding_context(self._model, kind, options)
        self.preprocessor = EmbeddingPreprocessor(
            self._model,
            self._context.longest,
            width=self._context.width,
            dimensions=(64, 128),
            score=reranker_score(self._model, "bert") if kind == "rerank" else None,
        )

    def embed(
        self, inputs: Sequence[EmbeddingInput], *, dimensions: int | None = None, activation: bool = True
    ) -> Vectors:
        """Return the vectors in the order of the inputs. Raises BadRequest."""
        command = EmbedCommand(
            number=0,
            inputs=tuple(inputs),
            parameter="input",
            dimensions=dimensions,
            activation=activation,
            priority=0,
            owner="",
        )
        batcher = EmbeddingBatcher(self._context, max_batched_tokens=self._batch_tokens, reproducible=False)
        batcher.add(self.preprocessor.preprocess((0, 0), command))
        vectors: dict[int, Vectors] = {}
        while not batcher.is_idle:
            for _, event in batcher.step():
                if isinstance(event, Embedding):
                    vectors[event.index] = np.frombuffer(event.values, dtype="<f4")
                else:
                    assert isinstance(event, Usage), event
        return np.stack([vectors[index] for index in range(len(inputs))])

    def close(self) -> None:
        self._context.close()
        self._model.close()


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddingModel]:
    path = minilm.write_gguf(tmp_path_factory.mktemp("shallow") / "minilm.gguf", layers=1)
    model = EmbeddingModel(path)
    yield model
    model.close()


def texts(*values: str) -> list[TextPrompt]:
    return [TextPrompt(value) for value in values]


def test_fifty_texts_have_the_tokens_and_the_vectors_of_the_reference(tmp_path: Path) -> None:
    model = EmbeddingModel(minilm.write_gguf(tmp_path / "minilm.gguf"))
    reference = minilm.Reference()
    assert len(TEXTS) == 50
    tokens = model.preprocessor.tokenize_inputs(texts(*TEXTS), "input")
    assert [row.tolist() for row in tokens] == [reference.tokenize(text) for text in TEXTS]
    vectors = model.embed(texts(*TEXTS))
    cosines = [float(vector @ reference.embed(text)) for vector, text in zip(vectors, TEXTS, strict=True)]
    assert min(cosines) >= 0.999
    model.close()


def test_token_ids_give_the_vector_of_their_text(shallow: EmbeddingModel) -> None:
    tokens = shallow.preprocessor.tokenize_inputs(texts(TEXTS[0]), "input")[0].tolist()
    by_text, by_tokens = shallow.embed([TextPrompt(TEXTS[0]), TokenPrompt(tuple(tokens))])
    np.testing.assert_allclose(by_text, by_tokens, atol=1e-3)


def test_a_thousand_texts_of_mixed_length_have_the_vectors_that_each_has_alone(shallow: EmbeddingModel) -> None:
    source = np.random.default_rng(0)
    lengths = [510, 300, 1] + [int(length) for length in source.integers(1, 16, 997)]
    inputs = [TokenPrompt(tuple(map(int, source.integers(1000, 20_000, length)))) for length in lengths]
    together = shallow.embed(inputs)
    alone = np.concatenate([shallow.embed([each]) for each in inputs])
    assert np.abs(together - alone).max() < 1e-3


def test_many_short_inputs_beside_a_long_one_do_not_exceed_the_sequences_of_a_context(shallow: EmbeddingModel) -> None:
    vectors = shallow.embed([TokenPrompt((7592,) * 500), *[TokenPrompt((2000 + number,)) for number in range(400)]])
    assert vectors.shape == (401, minilm.WIDTH)
    np.testing.assert_allclose(vectors[-1:], shallow.embed([TokenPrompt((2399,))]), atol=1e-3)


def test_the_longest_input_is_that_of_the_training_context(shallow: EmbeddingModel) -> None:
    longest = TokenPrompt((7592,) * 512)
    assert shallow.embed([longest]).shape == (1, minilm.WIDTH)
    with pytest.raises(BadRequest, match=r"input\[1\] has 513 tokens, the model takes 512") as refusal:
        shallow.embed([longest, TokenPrompt((7592,) * 513)])
    assert refusal.value.parameter == "input"


def test_an_empty_input_and_a_token_beyond_the_vocabulary_are_named(shallow: EmbeddingModel) -> None:
    with pytest.raises(BadRequest, match=r"input\[1\] is empty"):
        shallow.embed([TokenPrompt((1,)), TokenPrompt(())])
    with pytest.raises(BadRequest, match=r"input\[0\] must hold token ids from 0 to 30521, got 30522"):
        shallow.embed([TokenPrompt((30522,))])


@pytest.mark.parametrize(("side", "kept"), [("right", "one two"), ("left", "three four")])
def test_a_truncated_text_keeps_its_special_tokens(shallow: EmbeddingModel, side: str, kept: str) -> None:
    truncation = PromptTruncation(4, side="left" if side == "left" else "right")
    inputs = [TextPrompt("one two three four", truncation), TextPrompt(kept)]
    truncated, expected = shallow.preprocessor.tokenize_inputs(inputs, "input")
    np.testing.assert_array_equal(truncated, expected)


@pytest.mark.parametrize("side", ["left", "right"])
def test_truncation_to_fewer_tokens_than_the_special_ones_keeps_those_only(shallow: EmbeddingModel, side: str) -> None:
    truncation = PromptTruncation(1, side="left" if side == "left" else "right")
    [tokens] = shallow.preprocessor.tokenize_inputs([TextPrompt("one two three four", truncation)], "input")
    assert len(tokens) == 2


def test_truncation_to_the_models_length_keeps_what_fits(shallow: EmbeddingModel) -> None:
    text, tokens = "word " * 600, TokenPrompt((7592,) * 600, PromptTruncation())
    sizes = map(len, shallow.preprocessor.tokenize_inputs([TextPrompt(text, PromptTruncation()), tokens], "input"))
    assert list(sizes) == [512, 512]


def test_a_vector_is_cut_to_the_dimensions_that_are_set(shallow: EmbeddingModel) -> None:
    [whole] = shallow.embed(texts("hello"))
    [cut] = shallow.embed(texts("hello"), dimensions=64)
    np.testing.assert_allclose(cut, whole[:64] / np.linalg.norm(whole[:64]), atol=1e-4)
    [same] = shallow.embed(texts("hello"), dimensions=minilm.WIDTH)
    np.testing.assert_allclose(same, whole, atol=1e-4)
    with pytest.raises(BadRequest, match="dimensions is 65; the model has vectors of 64, 128, 384 values"):
        shallow.embed(texts("hello"), dimensions=65)


def test_a_model_for_embeddings_takes_no_pairs(shallow: EmbeddingModel) -> None:
    with pytest.raises(BadRequest, match=r"input\[0\] does not fit the model, which takes texts"):
        shallow.embed([TextPair("query", "document")])


def test_a_reranker_computes_the_score_of_the_reference(tmp_path: Path) -> None:
    head = minilm.random_head(1)
    path = minilm.write_gguf(tmp_path / "reranker.gguf", layers=1, head=head)
    assert model_kind(path) == "rerank"
    model, reference = EmbeddingModel(path), minilm.Reference(layers=1)
    pairs = [("capital of France", "Paris is in France."), ("what is a [SEP]?", "A token."), ("a", "b")]
    logits = model.embed([TextPair(*pair) for pair in pairs], activation=False)[:, 0]
    expected = [head.logit(reference.hidden(reference.tokenize_pair(*pair))[0]) for pair in pairs]
    np.testing.assert_allclose(logits, expected, atol=5e-3)
    scores = model.embed([TextPair(*pair) for pair in pairs])[:, 0]
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), atol=1e-3)
    model.close()


@pytest.mark.parametrize("template", [None, "[CLS]{query}[SEP]{document}[SEP]"])
def test_only_the_document_of_a_pair_is_shortened(tmp_path: Path, template: str | None) -> None:
    path = minilm.write_gguf(tmp_path / "reranker.gguf", layers=1, head=minilm.random_head(1), template=template)
    model, reference = EmbeddingModel(path), minilm.Reference()
    query, truncation = "what is a [SEP]?", PromptTruncation(14, side="right")
    pairs = [TextPair(query, "one two three"), TextPair(query, "one two three " * 600, truncation)]
    whole, shortened = model.preprocessor.tokenize_inputs(pairs, "documents")
    assert whole.tolist() == reference.tokenize_pair(query, "one two three")
    assert shortened.tolist() == reference.tokenize_pair(query, "one two three one")
    with pytest.raises(BadRequest, match=r"documents\[0\] has 60[23] tokens, the model takes 512"):
        model.preprocessor.tokenize_inputs([TextPair("query " * 600, "one", PromptTruncation())], "documents")
    model.close()


def test_a_long_input_of_a_causal_model_is_computed_in_several_steps(tmp_path: Path) -> None:
    path = tiny_llama.write_model(tmp_path / "tiny.gguf", tiny_llama.random_weights(1))
    assert model_kind(path) == "generation"
    inputs = [TextPrompt("once upon a time " * 20), TextPrompt("there was"), TextPrompt("a king")]
    vectors = []
    for batch_tokens in (512, 64):
        model = EmbeddingModel(path, kind="embeddings", batch_tokens=batch_tokens)
        vectors.append(model.embed(inputs))
        model.close()
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-2)
    assert np.abs(vectors[0][0] - vectors[0][1]).max() > 0.1
