"""Reports of a conformance run: text for people, JSON, and JUnit's XML for CI."""

import json
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from dragoman.conformance.promises import PromiseResult

Render = Callable[[str, Sequence[PromiseResult]], str]
"""Renders the results of a dialect."""


def _text(dialect: str, results: Sequence[PromiseResult]) -> str:
    lines = [f"{each.state:<8} {each.promise}{f': {each.message}' if each.message else ''}" for each in results]
    counts = Counter(each.state for each in results)
    summary = ", ".join(f"{counts[state]} {state}" for state in ("passed", "failed", "skipped"))
    return "\n".join([*lines, f"{dialect}: {summary}"])


def _json(dialect: str, results: Sequence[PromiseResult]) -> str:
    return json.dumps({"dialect": dialect, "results": [each._asdict() for each in results]}, indent=2)


def _junit(dialect: str, results: Sequence[PromiseResult]) -> str:
    counts = Counter(each.state for each in results)
    suite = ET.Element(
        "testsuite",
        name=f"dragoman conformance: {dialect}",
        tests=str(len(results)),
        failures=str(counts["failed"]),
        skipped=str(counts["skipped"]),
        time=f"{sum(each.seconds for each in results):.3f}",
    )
    for each in results:
        case = ET.SubElement(suite, "testcase", name=each.promise, classname=dialect, time=f"{each.seconds:.3f}")
        if each.state != "passed":
            ET.SubElement(case, "failure" if each.state == "failed" else "skipped", message=each.message)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True)


REPORTS: Mapping[str, Render] = {"text": _text, "json": _json, "junit": _junit}
"""Name of a format → its renderer."""
