"""The files of other projects that the console serves, as their packages on npm contain them."""

from typing import NamedTuple


class VendoredFile(NamedTuple):
    """A file in `static/vendor`, unchanged."""

    name: str
    package: str
    """On npm, with its version, and the path in it."""
    licence: str
    """SPDX identifier. The text is in the file with the ending LICENSE."""
    sha256: str


VENDORED = (
    VendoredFile(
        "htmx-4.0.1.min.js",
        "htmx.org@4.0.1/dist/htmx.min.js",
        "0BSD",
        "a0abb04f2f45a1f89d1d4844023245537e5e6014c87b144553e0607b4cc32130",
    ),
    VendoredFile(
        "htmx-4.0.1.LICENSE",
        "htmx.org@4.0.1/LICENSE",
        "0BSD",
        "d3d2456f76414f2456104660ebd65aff1c04cd7966b942bdabd63f3cdb316a38",
    ),
    VendoredFile(
        "uplot-1.6.32.iife.min.js",
        "uplot@1.6.32/dist/uPlot.iife.min.js",
        "MIT",
        "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    ),
    VendoredFile(
        "uplot-1.6.32.min.css",
        "uplot@1.6.32/dist/uPlot.min.css",
        "MIT",
        "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    ),
    VendoredFile(
        "uplot-1.6.32.LICENSE",
        "uplot@1.6.32/LICENSE",
        "MIT",
        "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
    ),
)
