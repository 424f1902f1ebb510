import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.dialects.http.validation import InvalidFields, PatternMismatch, decode_body
from dragoman.dialects.openai.tools import FunctionDefinition, ToolDefinition, tool_use


@given(st.text(max_size=70) | st.from_regex(r"[A-Za-z0-9_-]{1,64}\n?", fullmatch=True))
def test_a_name_has_1_to_64_letters_digits_and_lines(name: str) -> None:
    body = b'{"name":%s}' % _json(name)
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        assert decode_body(body, FunctionDefinition).name == name
    else:
        with pytest.raises(InvalidFields) as caught:
            decode_body(body, FunctionDefinition)
        [violation] = caught.value.violations
        assert (violation.path, type(violation.problem)) == (("name",), PatternMismatch)


def _json(text: str) -> bytes:
    return msgspec.json.encode(text)


def test_tool_choice_none_removes_the_tools() -> None:
    tool = ToolDefinition("function", FunctionDefinition("now"))
    assert tool_use([], None) is None
    assert tool_use([], "auto") is None
    assert tool_use([tool], "none") is None
    assert tool_use([tool], None) is not None
