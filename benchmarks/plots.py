"""Draws the results of benchmarks, and writes docs/performance.md around the drawings.

make plots RESULTS=FOLDER    # FOLDER holds engine.json, http.json …, each written by a benchmark's --json

A benchmark without a file keeps the drawing that it has. The numbers that are drawn stand in a table beneath.
"""

import argparse
import json
import platform
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images" / "performance"
PAGE = ROOT / "docs" / "performance.md"

COLOURS = ("#2f6f8f", "#c8772e", "#7a8a3c", "#8a5a83", "#8c8c8c", "#b5495b")
INK = "#6e7781"
"""Readable on white and on black: the drawings have no background."""
WIDTH_INCHES = 7.2
ROW_INCHES = 0.26
FRAME_INCHES = 1.1

Figures = Mapping[str, Any]
"""A server's medians, as a benchmark writes them."""


class Measure(NamedTuple):
    """One figure of a benchmark, drawn as a row of bars for each server."""

    title: str
    value: Callable[[Figures], float]
    number: str = "{:,.0f}"
    """How a value is written."""


class Plot(NamedTuple):
    """One drawing. Its file is the benchmark's name."""

    benchmark: str
    heading: str
    caption: str
    command: str
    group: Callable[[Figures], str]
    """Names a result, of which the benchmark has one for each workload."""
    measures: tuple[Measure, ...]


def _milliseconds(field: str) -> Callable[[Figures], float]:
    return lambda figures: figures[field] * 1000


PLOTS = (
    Plot(
        benchmark="engine",
        heading="The engine",
        caption="The embedded engine beside llama.cpp's own server: 16 clients whose prompts begin alike (shared) or "
        "not (unshared), and one client (single).",
        command="python -m benchmarks.engine --rewrite --rounds 1 --json FOLDER/engine.json",
        group=lambda result: result["workload"],
        measures=(
            Measure("tokens/s", lambda figures: figures["tokens_per_second"]),
            Measure("first token, p95, s", lambda figures: figures["first_token_p95"], "{:,.2f}"),
        ),
    ),
    Plot(
        benchmark="embeddings",
        heading="Embeddings",
        caption="A MiniLM beside llama.cpp's own server: one text a request, 64 short ones, and 64 of mixed lengths.",
        command="python -m benchmarks.embeddings --json FOLDER/embeddings.json",
        group=lambda result: result["workload"],
        measures=(
            Measure("texts/s", lambda figures: figures["rate"], "{:,.1f}"),
            Measure("response, p50, ms", _milliseconds("latency_p50")),
        ),
    ),
    Plot(
        benchmark="http",
        heading="The HTTP side",
        caption="One worker with the echo engine beside a bare Starlette handler that sends the same bytes.",
        command="python -m benchmarks.http --json FOLDER/http.json",
        group=lambda result: (
            "answers, per second" if result["kind"] == "completions" else "streamed tokens, per second"
        ),
        measures=(Measure("", lambda figures: figures["rate"]),),
    ),
    Plot(
        benchmark="gateway",
        heading="Accounts",
        caption="One worker with the echo engine: without accounts, with usage recorded, with durable accounts on "
        "either database.",
        command="python -m benchmarks.gateway --json FOLDER/gateway.json",
        group=lambda result: f"{result['clients']} clients" if result["clients"] > 1 else "one client",
        measures=(
            Measure("requests/s", lambda figures: figures["rate"]),
            Measure("response, p50, ms", _milliseconds("latency_p50"), "{:,.2f}"),
        ),
    ),
    Plot(
        benchmark="upstream",
        heading="In front of another server",
        caption="One worker passes on what another server answers: 4 tokens at once to 32 clients or to one (answers, "
        "one answer), or streams of 256 tokens as fast as they are taken, or one every 10 ms (paced). The processor "
        "time is that of an answer.",
        command="python -m benchmarks.upstream --litellm PROGRAM --json FOLDER/upstream.json",
        group=lambda result: result["workload"],
        measures=(
            Measure("tokens/s", lambda figures: figures["token_rate"]),
            Measure("processor time, ms", _milliseconds("server_seconds"), "{:,.2f}"),
        ),
    ),
    Plot(
        benchmark="speculation",
        heading="Answers that repeat their prompts",
        caption="Drafts from the prompt: dragoman with and without, beside llama.cpp's with and without its own.",
        command="python -m benchmarks.speculation --json FOLDER/speculation.json",
        group=lambda result: (
            f"{result['workload']}, {result['clients']} clients"
            if result["clients"] > 1
            else f"{result['workload']}, one client"
        ),
        measures=(Measure("tokens/s", lambda figures: figures["tokens_per_second"], "{:,.1f}"),),
    ),
    Plot(
        benchmark="contexts",
        heading="Long prompts",
        caption="One request whose prompt grows to 32,000 tokens, a random llama of 4 layers, beside llama.cpp's own "
        "server: a prompt token behind those of the row above, and a generated token behind the whole prompt.",
        command="python -m benchmarks.contexts --lengths 1024,4096,16384,32768 --json FOLDER/contexts.json",
        group=lambda result: f"{result['tokens']:,} tokens",
        measures=(
            Measure("prompt token, ms", _milliseconds("prefill_seconds_per_token"), "{:,.2f}"),
            Measure("generated token, ms", _milliseconds("decode_seconds_per_token"), "{:,.1f}"),
        ),
    ),
)


def results_of(document: Any) -> list[Figures]:
    """Return the results in a benchmark's file. Some have rounds by workload and server, and no medians."""
    if isinstance(document, list):
        return document
    return [
        {"workload": workload, "medians": {server: _medians(rounds) for server, rounds in servers.items()}}
        for workload, servers in document.items()
    ]


def _medians(rounds: Sequence[Figures]) -> Figures:
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def draw(plot: Plot, results: list[Figures]) -> None:
    """Draw a panel for each measure of each result. All servers of a panel were measured in one run."""
    import matplotlib  # Of requirements/plots.txt: neither the server nor its tests need it.
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "dragoman"  # The same drawing has the same bytes.
    panels = [(result, measure) for result in results for measure in plot.measures]
    rows = [len(result["medians"]) for result, _ in panels]
    columns = len(plot.measures)
    height = FRAME_INCHES * len(results) * 0.6 + ROW_INCHES * sum(rows[::columns])
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    axes = figure.subplots(len(results), columns, squeeze=False, height_ratios=rows[::columns]).ravel()
    for axis, (result, measure) in zip(axes, panels, strict=True):
        _draw_panel(axis, plot.group(result), measure, result["medians"])
    IMAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(IMAGES / f"{plot.benchmark}.svg", transparent=True, metadata={"Date": None, "Creator": None})


def _draw_panel(axis: "Axes", group: str, measure: Measure, medians: Mapping[str, Figures]) -> None:
    values = [measure.value(figures) for figures in medians.values()]
    bars = axis.barh(list(medians), values, color=[COLOURS[index % len(COLOURS)] for index in range(len(values))])
    axis.bar_label(bars, [measure.number.format(value) for value in values], padding=4, color=INK, fontsize=8)
    axis.set_title(f"{group}: {measure.title}" if measure.title else group, loc="left", color=INK, fontsize=9)
    axis.set_xlim(0, max(values) * 1.2)
    axis.invert_yaxis()
    axis.set_xticks([])
    axis.tick_params(axis="y", colors=INK, labelsize=8, length=0)
    for side in ("top", "right", "bottom"):
        axis.spines[side].set_visible(False)
    axis.spines["left"].set_color(INK)


def _table(plot: Plot, results: list[Figures]) -> list[str]:
    titles = [measure.title or "rate" for measure in plot.measures]
    lines = [f"| workload | server | {' | '.join(titles)} |", f"|---|---|{'---:|' * len(titles)}"]
    for result in results:
        for server, figures in result["medians"].items():
            cells = [measure.number.format(measure.value(figures)) for measure in plot.measures]
            lines.append(f"| {plot.group(result)} | {server} | {' | '.join(cells)} |")
    return lines


def _section(plot: Plot, results: list[Figures], machine: str) -> str:
    return "\n".join(
        (
            f"## {plot.heading}",
            "",
            plot.caption,
            "",
            f"![{plot.heading}: the table beneath as bars](images/performance/{plot.benchmark}.svg)",
            "",
            *_table(plot, results),
            "",
            f"{date.today():%-d %B %Y}, {machine}: `{plot.command}`",
        )
    )


def machine_name() -> str:
    """Name this machine's processor and how many cores there are."""
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.+)", text)
    return f"{text.count('processor	:')} cores of {model[1] if model else platform.processor()}"


def updated(page: str, found: Mapping[str, list[Figures]], machine: str) -> str:
    """Return the page with the sections of the benchmarks that were found, and the others as they are."""
    parts = re.split(r"^(?=## )", page, flags=re.MULTILINE)
    sections = {part.partition("\n")[0].removeprefix("## "): part.strip() for part in parts if part.startswith("## ")}
    sections |= {
        plot.heading: _section(plot, found[plot.benchmark], machine) for plot in PLOTS if plot.benchmark in found
    }
    return "\n\n".join((_INTRODUCTION, *(sections[plot.heading] for plot in PLOTS if plot.heading in sections))) + "\n"


_INTRODUCTION = """# Performance

What dragoman does beside its peers, each drawing measured in one run on one machine. Times depend on the machine,
ratios hold. [The benchmarks](../benchmarks/README.md) say how each is measured, which bars were missed, and what
was tried."""


def main() -> None:
    """Draw what there are results of, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path, help="folder with the files that --json wrote")
    folder = parser.parse_args().results
    paths = {plot: folder / f"{plot.benchmark}.json" for plot in PLOTS}
    found = {plot.benchmark: results_of(json.loads(path.read_text())) for plot, path in paths.items() if path.exists()}
    for plot in PLOTS:
        if plot.benchmark in found:
            draw(plot, found[plot.benchmark])
    PAGE.write_text(updated(PAGE.read_text() if PAGE.exists() else "", found, machine_name()))


if __name__ == "__main__":
    main()
