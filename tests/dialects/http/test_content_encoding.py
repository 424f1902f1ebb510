"""Compressed bodies: any split of the data, and no more memory than the limit."""

import gzip
import itertools
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.core.errors import UnsupportedEncoding
from dragoman.dialects.http.content_encoding import BodyDecompressor
from dragoman.dialects.http.validation import MalformedJson

LIMIT = 1000


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


Compress = Callable[[bytes], bytes]
COMPRESSORS: list[tuple[str, Compress]] = [
    ("gzip", gzip.compress),
    ("x-gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("Deflate", raw_deflate),
]


def decompress(encoding: str, parts: list[bytes], limit: int = LIMIT) -> bytes:
    decompressor = BodyDecompressor(encoding)
    data = b"".join([decompressor.decompress(part, limit) for part in parts])
    decompressor.finish()
    return data


@given(
    body=st.binary(max_size=LIMIT),
    compressor=st.sampled_from(COMPRESSORS),
    places=st.lists(st.integers(0, LIMIT), max_size=3),
)
def test_a_body_arrives_whole_however_its_data_is_split(
    body: bytes, compressor: tuple[str, Compress], places: list[int]
) -> None:
    encoding, compress = compressor
    sent = compress(body)
    edges = sorted({0, len(sent), *(min(place, len(sent)) for place in places)})
    parts = [sent[start:end] for start, end in itertools.pairwise(edges)]
    assert decompress(encoding, [b"", *parts, b""]) == body


@pytest.mark.parametrize(("encoding", "compress"), COMPRESSORS)
def test_no_more_than_one_byte_beyond_the_limit_is_decompressed(encoding: str, compress: Compress) -> None:
    assert len(BodyDecompressor(encoding).decompress(compress(b"a" * 10**6), LIMIT)) == LIMIT + 1
    assert len(BodyDecompressor(encoding).decompress(compress(b"a"), 0)) == 1


@pytest.mark.parametrize(("encoding", "compress"), COMPRESSORS)
def test_data_that_is_damaged_incomplete_or_followed_by_more_is_malformed(encoding: str, compress: Compress) -> None:
    sent = compress(b"body")
    for parts in ([], [sent[:1]], [sent[:-1]], [b"\xff" + sent], [sent + sent], [sent, sent], [sent, b"\0"]):
        with pytest.raises(MalformedJson, match="Request body is not valid"):
            decompress(encoding, parts)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "", "*"])
def test_other_encodings_are_refused_with_the_names_of_those_that_are_accepted(encoding: str) -> None:
    with pytest.raises(UnsupportedEncoding, match="gzip or deflate"):
        BodyDecompressor(encoding)
