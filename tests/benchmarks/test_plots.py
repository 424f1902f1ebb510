"""The page of performance, without its drawings."""

from benchmarks.plots import PLOTS, Figures, results_of, updated

ENGINE: list[Figures] = [
    {"workload": "shared", "medians": {"dragoman": {"tokens_per_second": 1165.2, "first_token_p95": 1.734}}}
]
LATER: list[Figures] = [
    {"workload": "shared", "medians": {"dragoman": {"tokens_per_second": 1200.0, "first_token_p95": 1.5}}}
]
HTTP: list[Figures] = [{"kind": "completions", "medians": {"dragoman": {"rate": 3600.4}}}]


def test_the_figures_stand_in_a_table_with_the_machine_and_the_command() -> None:
    page = updated("", {"engine": ENGINE}, "2 cores of a processor")
    assert "| shared | dragoman | 1,165 | 1.73 |" in page
    assert "2 cores of a processor: `python -m benchmarks.engine" in page
    assert "## The HTTP side" not in page


def test_a_benchmark_without_new_results_keeps_its_section_and_all_stand_in_their_order() -> None:
    first = updated("", {"http": HTTP}, "an old machine")
    second = updated(first, {"engine": ENGINE}, "a machine")
    third = updated(second, {"engine": LATER}, "a new machine")
    assert third.count("## The HTTP side") == 1
    assert "an old machine" in third
    assert "1,165" not in third
    assert "1,200" in third
    assert third.index("## The engine") < third.index("## The HTTP side")
    assert updated(third, {}, "") == third


def test_each_drawing_belongs_to_one_benchmark() -> None:
    assert len({plot.benchmark for plot in PLOTS}) == len({plot.heading for plot in PLOTS}) == len(PLOTS)


def test_rounds_without_medians_get_them() -> None:
    rounds = [{"rate": 1.0}, {"rate": 5.0}, {"rate": 2.0}]
    assert results_of({"answers": {"nginx": rounds}}) == [{"workload": "answers", "medians": {"nginx": {"rate": 2.0}}}]
