"""Kimi K3: elements within each other, with the type of each value.

    <|open|>tools<|sep|><|open|>call tool="get_weather" index="1"<|sep|><|open|>argument key="city" type="string"<|sep|>
    Oslo<|close|>argument<|sep|><|close|>call<|sep|><|close|>tools<|sep|><|close|>message<|sep|>

without the line ends.
"""

from dragoman.output.markup import INDEX, TYPE, ParameterMarkup, ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = ToolCallMarkup(
    trigger="<|open|>tools<|sep|>",
    section_open="<|open|>tools<|sep|>",
    head_before_name='<|open|>call tool="',
    head_after_name=f'" index="{INDEX}"<|sep|>',
    parameters=ParameterMarkup(
        before_name='<|open|>argument key="',
        after_name='" type="string"<|sep|>',
        after_name_of_json=f'" type="{TYPE}"<|sep|>',
        close="<|close|>argument<|sep|>",
        after_close="",
    ),
    tail="<|close|>call<|sep|>",
    section_close="<|close|>tools<|sep|><|close|>message<|sep|>",
    first_index=1,
    special_tokens=("<|open|>", "<|sep|>", "<|close|>"),
)

FORMAT = ToolFormat(markup=MARKUP)
