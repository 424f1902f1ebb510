"""Small charts as inline SVG, without scripts: colours come from the stylesheet, figures are in the titles."""

from collections.abc import Sequence

from markupsafe import Markup

_WIDTH, _HEIGHT = 240, 44

_SPARKLINE = (
    '<svg class="sparkline" viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" aria-label="{label}">'
    '<polygon points="0,{height} {line} {width},{height}"></polygon><polyline points="{line}"></polyline></svg>'
)

_FLAT_LINE = (
    '<svg class="sparkline" viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" aria-label="{label}">'
    '<polyline class="none" points="0,{bottom} {width},{bottom}"></polyline></svg>'
)


def sparkline(values: Sequence[float], label: str) -> Markup:
    """Draw values of equal intervals as a line over its area. `label` says what it shows."""
    if not any(values):
        return Markup(_FLAT_LINE).format(width=_WIDTH, height=_HEIGHT, bottom=_HEIGHT - 3, label=f"{label}: none")
    highest = max(values)
    step = _WIDTH / max(1, len(values) - 1)
    points = [
        f"{number * step:.1f},{_HEIGHT - 3 - (_HEIGHT - 8) * value / highest:.1f}"
        for number, value in enumerate(values)
    ]
    return Markup(_SPARKLINE).format(width=_WIDTH, height=_HEIGHT, label=label, line=" ".join(points))


def span_bar(begin: float, end: float, total: float, label: str) -> Markup:
    """Draw when something happened within a time of `total`, from `begin` to `end`; the label says what."""
    left, right = (1000 * min(1.0, max(0.0, at / (total or 1))) for at in (begin, end))
    return Markup(
        '<svg class="bar span" viewBox="0 0 1000 16" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<rect class="rest" x="{:.1f}" y="0" width="{:.1f}" height="16"></rect></svg>'
    ).format(label, min(left, 992), max(8, right - left))


def histogram_bar(parts: Sequence[tuple[str, float]], label: str) -> Markup:
    """Draw one bar of named parts side by side; the class of each part is its name."""
    total = sum(value for _, value in parts) or 1.0
    rects, left = [], 0.0
    for name, value in parts:
        width = 1000 * value / total
        rects.append(
            Markup('<rect class="{}" x="{:.1f}" y="0" width="{:.1f}" height="16"></rect>').format(name, left, width)
        )
        left += width
    return Markup(
        '<svg class="bar" viewBox="0 0 1000 16" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(label, Markup("").join(rects))
