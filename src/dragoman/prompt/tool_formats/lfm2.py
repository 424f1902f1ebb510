"""LFM2 and LFM2.5: a list of Python calls between special tokens.

    <|tool_call_start|>[get_weather(city="Oslo", days=3), get_time()]<|tool_call_end|>

The templates leave earlier calls out, or write their strings without escapes.
"""

from dragoman.output.markup import ToolCallMarkup
from dragoman.output.value_syntax import PYTHON
from dragoman.prompt.tool_formats.format import ToolFormat, calls_as_text

MARKUP = ToolCallMarkup(
    trigger="<|tool_call_start|>",
    section_open="<|tool_call_start|>[",
    head_before_name="",
    head_after_name="(",
    values=PYTHON,
    tail=")",
    separator=", ",
    section_close="]<|tool_call_end|>",
    special_tokens=("<|tool_call_start|>", "<|tool_call_end|>"),
)

FORMAT = ToolFormat(
    markup=MARKUP,
    hints=("<|tool_list_start|>", '"List of tools: ["'),
    adapt=calls_as_text(MARKUP),
    writes_calls_as_text=True,
)
