"""The change of a model's predictions when its file is rewritten in another format.

    .venv/bin/python -m benchmarks.divergence

What is measured and how to read it: benchmarks/README.md.
"""

import argparse
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.harness.figures import table, write_json
from benchmarks.rewrite_weights import FORMATS, rewritten
from dragoman.engines.llama.arrays import TokenArray
from dragoman.engines.llama.native.backend import Chunk
from dragoman.engines.llama.native.context import LlamaContext
from dragoman.engines.llama.native.libraries.binding import ContextOptions
from dragoman.engines.llama.native.libraries.llama_cpp import LlamaCpp, packaged_llama_cpp
from dragoman.engines.llama.native.library_check import kl_divergences, log_softmax
from dragoman.engines.llama.native.loading import load_model
from dragoman.engines.llama.native.model import Model
from dragoman.engines.llama.weights.rewriting import faster_file
from dragoman.engines.llama.weights.sources import bundled

SHIPPED = "shipped"
SERVED = "served"
"""Rewritten, and computed by the library that serves it. All others are computed by llama.cpp."""

TEXT = Path(__file__).with_name("texts") / "english.txt"

BATCH_TOKENS = 256
ROWS = 64
"""Distributions that are compared together."""


class Divergence(msgspec.Struct, frozen=True, kw_only=True):
    """The divergence of one format from another, over all tokens of the text except the first."""

    weights: str
    mean: float
    """Kullback-Leibler divergence, in nats."""
    p99: float
    highest: float
    same_top: float
    """The share of positions at which both predict the same token."""
    perplexity: float
    baseline_perplexity: float


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The command line."""

    model: Path
    formats: list[str]
    against: str
    threads: int
    json: Path | None


def predictions(model: Model, tokens: TokenArray, threads: int) -> npt.NDArray[np.float32]:
    """Compute the logits after each token but the last: float32[tokens - 1, vocabulary]. Frees the model."""
    context = LlamaContext(model, ContextOptions(len(tokens), BATCH_TOKENS, threads))
    rows = []
    for start in range(0, len(tokens) - 1, BATCH_TOKENS):
        positions = range(start, min(start + BATCH_TOKENS, len(tokens) - 1))
        chunks = [Chunk(0, position, tokens[position : position + 1], True) for position in positions]
        rows.append(context.decode(chunks).copy())
    context.close()
    model.close()
    return np.concatenate(rows)


def compare(
    weights: str, baseline: npt.NDArray[np.float32], other: npt.NDArray[np.float32], tokens: TokenArray
) -> Divergence:
    """Compare `other` with `baseline`, both float32[tokens - 1, vocabulary]."""
    nats, surprise, surprise_baseline = [], [], []
    for start in range(0, len(baseline), ROWS):
        rows = slice(start, start + ROWS)
        nats.append(kl_divergences(baseline[rows], other[rows]))
        following = tokens[1:][rows, np.newaxis]
        surprise.append(-np.take_along_axis(log_softmax(other[rows]), following, axis=1))
        surprise_baseline.append(-np.take_along_axis(log_softmax(baseline[rows]), following, axis=1))
    divergence = np.concatenate(nats)
    return Divergence(
        weights=weights,
        mean=float(divergence.mean()),
        p99=float(np.percentile(divergence, 99)),
        highest=float(divergence.max()),
        same_top=float((baseline.argmax(axis=1) == other.argmax(axis=1)).mean()),
        perplexity=float(np.exp(np.concatenate(surprise).mean())),
        baseline_perplexity=float(np.exp(np.concatenate(surprise_baseline).mean())),
    )


def _report(results: list[Divergence], against: str) -> str:
    rows = [("", "KL mean", "p99", "max", "same top token", "perplexity", f"of {against}")]
    rows += [
        (
            result.weights,
            f"{result.mean:.5f}",
            f"{result.p99:.5f}",
            f"{result.highest:.5f}",
            f"{result.same_top:.1%}",
            f"{result.perplexity:.3f}",
            f"{result.baseline_perplexity:.3f}",
        )
        for result in results
    ]
    return table(rows)


def _parse() -> Options:
    names = [SHIPPED, SERVED, *FORMATS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.divergence", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--formats", default="q8_0,served,q4_0,f32", help=f"of {', '.join(names)} (default: %(default)s)"
    )
    parser.add_argument("--against", choices=names, default=SHIPPED, help="the baseline (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of the engine (default: 2)")
    parser.add_argument("--model", type=Path, help="a .gguf file (default: the bundled model)")
    parser.add_argument("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()
    formats = arguments.formats.split(",")
    if unknown := [name for name in formats if name not in names]:
        parser.error(f"unknown format {unknown[0]}; there are {', '.join(names)}")
    if arguments.threads < 1:
        parser.error("--threads must be at least 1")
    return Options(
        model=arguments.model or bundled().path,
        formats=formats,
        against=arguments.against,
        threads=arguments.threads,
        json=arguments.json,
    )


def main() -> None:
    """Measure and print."""
    options = _parse()
    library = LlamaCpp(packaged_llama_cpp())
    model = Model(library, options.model)
    tokens = model.vocabulary.tokenize(TEXT.read_text())
    model.close()

    def predicted(kind: str) -> npt.NDArray[np.float32]:
        if kind == SERVED:
            faster = faster_file(options.model, progress=False, notify=print)
            served = load_model(faster, None, ContextOptions(len(tokens), BATCH_TOKENS, options.threads))
            return predictions(served, tokens, options.threads)
        path = options.model if kind == SHIPPED else rewritten(options.model, kind)
        return predictions(Model(library, path), tokens, options.threads)

    baseline = predicted(options.against)
    results = [compare(kind, baseline, predicted(kind), tokens) for kind in options.formats]
    print(f"{options.model.name}: {len(tokens)} tokens, Kullback-Leibler divergence in nats\n")
    print(_report(results, options.against))
    write_json(options.json, results)


if __name__ == "__main__":
    main()
