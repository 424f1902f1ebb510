"""Templates, the formats of figures in them, and the static files."""

import functools
import hashlib
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

import dragoman
from dragoman.accounts.times import from_day_number, to_datetime
from dragoman.core.money import format_amount, format_price_per_million
from dragoman.server.console.charts import histogram_bar, span_bar, sparkline
from dragoman.server.console.menu import MENU, MenuEntry
from dragoman.server.console.services import ConsoleServices
from dragoman.server.console.viewers import ConsoleViewer

_FOLDER = Path(__file__).parent

NOTHING = "\N{EN DASH}"
"""Stands where there is no figure."""

_PRICE_PLACES = 5
"""Digits after the point of the price of a request that is not smaller."""

_LONG_WORD = 20
"""Characters of the longest word that is never broken."""

_MEDIA_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}

_CACHE_HEADERS = {"cache-control": "public, max-age=31536000, immutable"}


class Renderer:
    """Renders templates with the console's URLs."""

    def __init__(self, services: ConsoleServices) -> None:
        self._services = services
        self._environment = environment = Environment(
            loader=FileSystemLoader(_FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.globals.update(
            url=self.url,
            asset=self.asset,
            sparkline=sparkline,
            histogram_bar=histogram_bar,
            span_bar=span_bar,
            version=dragoman.__version__,
            is_open=services.is_open,
            has_accounts=services.has_accounts,
        )
        environment.filters.update(
            amount=format_amount,
            money=short_amount,
            price=price_amount,
            aligned=align_amount,
            places=decimal_places,
            per_million=format_price_per_million,
            number=format_number,
            compact=compact_number,
            size=format_size,
            duration=format_duration,
            time=time_element,
            share=format_share,
            name_class=name_class,
            short_id=shorten_id,
            safe_json=embed_json,
            minute=format_minute,
            day=format_day,
        )

    def response(self, template: str, *, status: int, viewer: ConsoleViewer, path: str, **values: object) -> Response:
        """Render a page for a viewer."""
        return HTMLResponse(
            self.text(template, viewer=viewer, menu=self._menu(viewer), path=path, **values), status_code=status
        )

    def text(self, template: str, **values: object) -> str:
        """Render a template."""
        return self._environment.get_template(template).render(**values)

    def url(self, path: str, /, **query: object) -> str:
        """Return the URL of a page of the console; parameters that are None are left out."""
        return self.url_with(self._services.root + ("" if path == "/" else path), **query)

    @staticmethod
    def url_with(url: str, /, **query: object) -> str:
        """Return the URL with parameters; those that are None are left out."""
        given = {name: value for name, value in query.items() if value is not None}
        return f"{url}?{urlencode(given)}" if given else url

    def asset(self, name: str) -> str:
        """Return the URL of a static file. It changes with all of them, since modules import each other."""
        return self.url(f"/static/{_assets_version()}/{name}")

    def _menu(self, viewer: ConsoleViewer) -> list[MenuEntry]:
        return [
            entry
            for entry in MENU
            if viewer.role in entry.roles and (entry.needs_accounts is False or self._services.has_accounts)
        ]


def static_response(path: str) -> Response:
    """Return the static file at VERSION/NAME, or 404. A page of an older version gets the newer file."""
    name = path.partition("/")[2]
    content = _static_files().get(name)
    if content is None:
        return Response("Not Found", 404)
    return Response(content, headers=_CACHE_HEADERS, media_type=_MEDIA_TYPES.get(Path(name).suffix, "text/plain"))


@functools.cache
def _static_files() -> Mapping[str, bytes]:
    folder = _FOLDER / "static"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@functools.cache
def _assets_version() -> str:
    files = _static_files()
    return hashlib.sha256(b"".join(files[name] for name in sorted(files))).hexdigest()[:12]


def format_number(value: int) -> str:
    """Format a whole number with thin spaces between thousands."""
    return f"{value:,}".replace(",", "\u202f")


def compact_number(value: float) -> str:
    """Format a number with three digits at most, as in 1.24 M."""
    text = f"{value:.0f}" if value == int(value) else f"{value:.1f}"
    for unit, suffix in ((1e3, "k"), (1e6, "M"), (1e9, "G")):
        if abs(float(text.partition("\u202f")[0])) < 1000:
            break
        text = f"{_three_digits(value / unit)}\u202f{suffix}"
    return text


def _three_digits(value: float) -> str:
    """Format a number with three digits, or more before the point if it has them."""
    places = next((places for places in (2, 1) if abs(round(value, places)) < 10 ** (3 - places)), 0)
    return f"{value:.{places}f}"


def format_size(size: int) -> str:
    """Format a number of bytes."""
    return f"{size}\N{NARROW NO-BREAK SPACE}B" if size < 1000 else f"{compact_number(size)}B"


def short_amount(amount: int) -> str:
    """Format an amount of nano-units with as many digits as people compare: two, or more for small ones."""
    units, _, fraction = format_amount(abs(amount)).partition(".")
    leading = len(fraction) - len(fraction.lstrip("0"))
    digits = 2 if abs(amount) >= 10**9 or not amount else max(2, leading + 2)
    return f"{'-' if amount < 0 else ''}{format_number(int(units))}.{fraction[:digits]:0<{digits}}"


def price_amount(amount: int) -> str:
    """Format what one request cost: in a column most points stand below each other."""
    units, _, fraction = short_amount(amount).partition(".")
    if not amount or len(fraction) >= _PRICE_PLACES:
        return f"{units}.{fraction}"
    exact = format_amount(amount).partition(".")[2]
    return f"{units}.{exact[:_PRICE_PLACES]:0<{_PRICE_PLACES}}"


def decimal_places(column: Iterable[int]) -> int:
    """Return the digits after the point that the longest amount of a column needs."""
    return max((len(format_amount(each).partition(".")[2]) for each in column), default=2)


def align_amount(amount: int, places: int) -> str:
    """Format an amount exactly, with so many digits after the point as its column has."""
    units, _, fraction = format_amount(amount).partition(".")
    return f"{units}.{fraction:0<{places}}"


def format_duration(milliseconds: float | None) -> str:
    """Format a duration in the unit that people would choose, or in two."""
    if milliseconds is None:
        return NOTHING
    if round(milliseconds) < 1000:
        return f"{milliseconds:.0f}\u202fms"
    seconds = milliseconds / 1000
    if round(seconds, 1) < 100:
        return f"{_three_digits(seconds)}\u202fs"
    if round(seconds) < 3600:
        return _two_units(round(seconds), 60, "min", "s")
    if round(seconds / 60) < 24 * 60:
        return _two_units(round(seconds / 60), 60, "h", "min")
    return _two_units(round(seconds / 3600), 24, "d", "h")


def _two_units(value: int, per_unit: int, unit: str, smaller: str) -> str:
    whole, rest = divmod(value, per_unit)
    return f"{whole}\u202f{unit}" + (f" {rest}\u202f{smaller}" if rest else "")


def format_share(part: int, whole: int) -> str:
    """Format a share in per cent."""
    return f"{100 * part / whole:.0f}\u202f%" if whole else NOTHING


def shorten_id(text: str) -> str:
    """Shorten an id to its random end: its beginning is the time."""
    return f"…{text[-8:]}" if len(text) > 10 else text


def name_class(text: str) -> str:
    """Return the classes of a cell with a name: long words are broken where a row has no room for them."""
    longest = max(map(len, re.split(r"[\s/-]", text)))
    return "name long" if longest > _LONG_WORD else "name"


def embed_json(text: str) -> Markup:
    """Return JSON that no text in it can end, for a <script> element that holds data."""
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def format_minute(milliseconds: int) -> str:
    """Format a time in UTC as forms take it."""
    return to_datetime(milliseconds).strftime("%Y-%m-%d %H:%M")


def format_day(number: int) -> str:
    """Format a day, in days since 1970."""
    return from_day_number(number).isoformat()


def time_element(milliseconds: int | None, *, now: int | None = None) -> Markup:
    """Return a <time> in UTC, which a script shows in the viewer's time zone."""
    if milliseconds is None:
        return Markup(NOTHING)
    at = to_datetime(milliseconds)
    today = (datetime.now(UTC) if now is None else to_datetime(now)).date()
    text = at.strftime("%H:%M:%S" if at.date() == today else "%Y-%m-%d %H:%M")
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        at.isoformat(timespec="milliseconds"), at.strftime("%Y-%m-%d %H:%M:%S UTC"), text
    )
