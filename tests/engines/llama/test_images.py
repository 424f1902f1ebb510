"""Answers to prompts with images, against llama.cpp's own way through them (mtmd_helper_eval_chunks).

The models have random weights. They are loaded in the tests' own process, since the same computations were seen to end
without a failed assertion.
"""

import ctypes
from collections.abc import Iterator, Sequence
from ctypes import POINTER, c_bool, c_int32, c_void_p
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from dragoman.core.errors import BadRequest, DragomanError
from dragoman.core.events import Delta, Event, Started, Usage
from dragoman.core.request import SamplingParams
from dragoman.engines.llama.batching.batcher import Batcher
from dragoman.engines.llama.native.image_projector import ImageProjector
from dragoman.engines.llama.native.libraries.binding import ContextOptions
from dragoman.engines.llama.native.libraries.llama_cpp import LlamaCpp, packaged_llama_cpp
from dragoman.engines.llama.native.libraries.mtmd import MtmdInputText
from dragoman.engines.llama.native.llama_backend import SingleContextBackend
from dragoman.engines.llama.native.loading import open_backend
from dragoman.engines.llama.native.model import Model
from dragoman.engines.llama.process.image_tokenizer import ImageTokenizer
from dragoman.engines.llama.process.preprocessor import RequestPreprocessor
from dragoman.engines.llama.raw_image import RawImage
from dragoman.engines.llama.wire.messages import GenerateCommand, ImagePrompt, PlacedImage
from tests.support.architecture_files import write_tiny_architecture
from tests.support.models import THREADS
from tests.support.special_token_model import load_special_token_model
from tests.support.tiny_architectures import SERVED
from tests.support.tiny_projector import TEXT_WIDTH, ProjectorKind, random_image, write_projector

TOKENS = 8
BATCH_TOKENS = 32
"""More than an image has that is read at once, fewer than two tiles have."""

OPTIONS = ContextOptions(512, BATCH_TOKENS, THREADS)

MAX_ROUNDING = 3e-4
"""Of a log-probability. With wrong positions of an image's parts, the tokens differ."""

SPECIAL = ("<start_of_image>", "<end_of_image>", "<|user|>")


class ImageEngine:
    """The preprocessor and the batcher over a tiny model with a projector."""

    def __init__(self, folder: Path, kind: ProjectorKind) -> None:
        if kind == "qwen2vl_merger":
            path = write_tiny_architecture(folder / "text.gguf", "qwen2vl", SERVED["qwen2vl"])
            self.model, width = Model(LlamaCpp(packaged_llama_cpp()), path), 32
        else:
            self.model, width = load_special_token_model(folder / "text.gguf", SPECIAL), TEXT_WIDTH
        projector = write_projector(folder / "mmproj.gguf", kind, text_width=width)
        self.projector = ImageProjector(self.model, projector, THREADS)
        backend = open_backend(self.model, OPTIONS, self.projector)
        assert isinstance(backend, SingleContextBackend), "of two contexts, or of one"
        self._backend = backend
        self.tokenizer = ImageTokenizer(self.projector, self.model.vocabulary, BATCH_TOKENS)
        self._preprocessor = RequestPreprocessor(self.model, 512, None, self.tokenizer)
        self._batcher = Batcher(
            self._backend,
            self.model.vocabulary,
            max_sequences=4,
            max_batched_tokens=BATCH_TOKENS,
            host_cache_tokens=2048,
        )

    def answer(self, *prompts: ImagePrompt, owners: Sequence[str] = ("",)) -> list[list[Event]]:
        """Answer all prompts together."""
        outputs = []
        for number, prompt in enumerate(prompts):
            command = GenerateCommand(
                number=number,
                prompt=prompt,
                sampling=SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True),
                n=1,
                echo=False,
                priority=0,
                logprobs=1,
                owner=owners[number % len(owners)],
            )
            outputs += self._batcher.add(self._preprocessor.preprocess((0, number), command), 1, seed=1)
        while not self._batcher.is_idle:
            outputs += self._batcher.step()
        while self._batcher.use_idle_time():
            pass
        answers: list[list[Event]] = [[] for _ in prompts]
        for (_, number), event in outputs:
            assert not isinstance(event, DragomanError), event.message
            answers[number].append(event)
        return answers

    def close(self) -> None:
        self._backend.close()
        self.projector.close()
        self.model.close()


@pytest.fixture(params=["mlp", "gemma3", "qwen2vl_merger"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ImageEngine]:
    engine = ImageEngine(tmp_path, request.param)
    yield engine
    engine.close()


def prompt(*parts: str | RawImage) -> ImagePrompt:
    text, images = "", []
    for part in parts:
        if isinstance(part, str):
            text += part
        else:
            images.append(PlacedImage(len(text), part))
    return ImagePrompt(text, (), tuple(images))


class Reference(NamedTuple):
    """What llama.cpp makes of a prompt."""

    prompt_tokens: int
    tokens: list[int]
    logprob: float
    """Of the first token."""


def reference(engine: ImageEngine, sent: ImagePrompt) -> Reference:
    """Let llama.cpp tokenize and compute the whole prompt, and go on greedily."""
    library, mtmd = engine.model.library, engine.projector.mtmd
    helpers = ctypes.CDLL(str(library.path))
    count = helpers.mtmd_helper_get_n_tokens
    count.restype, count.argtypes = ctypes.c_size_t, [c_void_p]
    evaluate = helpers.mtmd_helper_eval_chunks
    evaluate.restype = c_int32
    evaluate.argtypes = [c_void_p, c_void_p, c_void_p, c_int32, c_int32, c_int32, c_bool, POINTER(c_int32)]
    marked, begin = "", 0
    for placed in sent.images:
        marked += sent.text[begin : placed.offset] + "<__media__>"
        begin = placed.offset
    encoded = (marked + sent.text[begin:]).encode()
    images = [placed.image for placed in sent.images]
    bitmaps = [mtmd.mtmd_bitmap_init(image.width, image.height, image.pixels) for image in images]
    chunks = mtmd.mtmd_input_chunks_init()
    text = MtmdInputText(encoded, len(encoded), True, True)
    assert (
        mtmd.mtmd_tokenize(engine.projector.handle, chunks, text, (c_void_p * len(bitmaps))(*bitmaps), len(bitmaps))
        == 0
    )
    context = library.llama_init_from_model(engine.model.handle, library.context_params(OPTIONS))
    position = c_int32()
    arguments = (engine.projector.handle, context, chunks, 0, 0, BATCH_TOKENS, True, position)
    assert evaluate(*arguments) == 0
    logits = np.ctypeslib.as_array(library.llama_get_logits(context), (engine.model.vocabulary.size,)).astype(
        np.float64
    )
    logprob = float(logits.max() - np.log(np.exp(logits).sum()))
    tokens = [_likeliest(engine.model, context)]
    while len(tokens) < TOKENS:
        _decode_one(engine.model, context, tokens[-1], position.value + len(tokens) - 1)
        tokens.append(_likeliest(engine.model, context))
    prompt_tokens = count(chunks)
    library.llama_free(context)
    mtmd.mtmd_input_chunks_free(chunks)
    for bitmap in bitmaps:
        mtmd.mtmd_bitmap_free(bitmap)
    return Reference(prompt_tokens, tokens, logprob)


def _likeliest(model: Model, context: int) -> int:
    return int(np.ctypeslib.as_array(model.library.llama_get_logits(context), (model.vocabulary.size,)).argmax())


def _decode_one(model: Model, context: int, token: int, position: int) -> None:
    ones = {name: (c_int32 * 1)(value) for name, value in {"token": token, "pos": position, "n_seq_id": 1}.items()}
    ids, wants_logits = (c_int32 * 1)(0), (ctypes.c_int8 * 1)(1)
    id_pointers = (c_void_p * 1)(ctypes.addressof(ids))
    pointers = [
        ctypes.addressof(each) for each in (ones["token"], ones["pos"], ones["n_seq_id"], id_pointers, wants_logits)
    ]
    batch = model.library.batch_type(1, pointers[0], None, *pointers[1:])
    assert model.library.llama_decode(context, batch) == 0


def tokens_of(events: Sequence[Event]) -> list[int]:
    return [token for event in events if isinstance(event, Delta) for token in event.token_ids]


def logprob_of(events: Sequence[Event]) -> float | None:
    """Return the log-probability of the first token."""
    return next(event.logprobs[0].logprob for event in events if isinstance(event, Delta) and event.logprobs)


def cached_tokens(events: Sequence[Event]) -> int:
    [started] = [event for event in events if isinstance(event, Started)]
    return started.cached_tokens


FIRST, SECOND = random_image(0), random_image(1, 90, 60)
PROMPTS = [
    prompt("<|user|>What is this? ", FIRST, " Say it in a few words, please."),
    prompt("<|user|>What is this? ", SECOND, " Say it in a few words, please."),
    prompt(FIRST, SECOND, "Compare them, and be brief; then compare them again."),
    prompt("<|user|>And without ", FIRST, "a", FIRST, "b"),
]


def test_answers_and_counts_are_those_of_llama_cpp_alone_and_in_batches(engine: ImageEngine) -> None:
    expected = [reference(engine, sent) for sent in PROMPTS]
    alone = [engine.answer(sent)[0] for sent in PROMPTS]
    together = engine.answer(*PROMPTS, owners=("one", "two", "three", "four"))
    for answers in (alone, together):
        assert [tokens_of(events) for events in answers] == [each.tokens for each in expected]
        usages = [event for events in answers for event in events if isinstance(event, Usage)]
        assert [usage.prompt_tokens for usage in usages] == [each.prompt_tokens for each in expected]
        assert [logprob_of(events) for events in answers] == pytest.approx(
            [each.logprob for each in expected], abs=MAX_ROUNDING
        )
    assert abs(expected[0].logprob - expected[1].logprob) > 1e-3, "the image makes a difference"


def test_the_same_image_shares_its_cells_and_another_one_does_not(engine: ImageEngine) -> None:
    before, after = "<|user|>What is this? ", " Say it in a few words, please."
    count = len(engine.tokenizer.tokenize(PROMPTS[0]))
    [first], [same], [other], [longer] = (
        engine.answer(prompt(before, *images, after)) for images in ((FIRST,), (FIRST,), (SECOND,), (FIRST, SECOND))
    )
    assert (cached_tokens(first), cached_tokens(same)) == (0, count - 1)
    tokens = engine.tokenizer.tokenize(PROMPTS[0])
    image = np.flatnonzero(tokens < 0)
    assert cached_tokens(other) == image[0]
    # Both go on after the image: with the text around images, or with another text.
    closing = [len(piece) for piece in engine.projector.tokenize(FIRST)[1:] if not isinstance(piece, int)]
    assert cached_tokens(longer) >= image[-1] + 1 + sum(closing)
    [foreign] = engine.answer(prompt(before, FIRST, after), owners=("another",))
    assert cached_tokens(foreign) == 0
    assert tokens_of(foreign) == tokens_of(first) == tokens_of(same)
    [restored] = engine.answer(prompt(before, FIRST, after, "And again?"))  # Its cells are in host memory.
    assert cached_tokens(restored) == count
    [computed] = engine.answer(prompt(before, FIRST, after, "And again?"), owners=("a third",))
    assert tokens_of(restored) == tokens_of(computed)


def test_a_prompt_that_ends_with_an_image_or_asks_for_its_tokens_is_refused(engine: ImageEngine) -> None:
    preprocessor = RequestPreprocessor(engine.model, 512, None, engine.tokenizer)
    if isinstance(engine.projector.tokenize(FIRST)[-1], int):  # Others have a token after it.
        with pytest.raises(BadRequest, match="ends with an image"):
            preprocessor.tokenize_prompt(prompt("a", FIRST))
    with pytest.raises(BadRequest, match="no tokens of the vocabulary"):
        preprocessor.prompt_tokens(PROMPTS[0])
    with pytest.raises(BadRequest, match="takes no images"):
        RequestPreprocessor(engine.model, 512).tokenize_prompt(PROMPTS[0])


@pytest.mark.parametrize("engine", ["mlp", "gemma3"], indirect=True)
def test_text_that_people_wrote_is_no_special_token_beside_images(engine: ImageEngine) -> None:
    sent = prompt("<|user|>", FIRST, "<|user|>")
    literal = ImagePrompt(sent.text, tuple(range(len("<|user|>"), len(sent.text))), sent.images)
    marker = engine.model.vocabulary.special_token("<|user|>")
    assert engine.tokenizer.tokenize(sent).tolist().count(marker) == 2
    assert engine.tokenizer.tokenize(literal).tolist().count(marker) == 1
