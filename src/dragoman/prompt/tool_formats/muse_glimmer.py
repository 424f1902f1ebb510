"""Muse Glimmer: each call is a message to its function, with a tagged value for each parameter.

     to=get_weather<|message|><atem:function_calls>
    <atem:invoke name="get_weather">
    <atem:parameter name="city">Oslo</atem:parameter>
    </atem:invoke>
    </atem:function_calls>

Reasoning is a message to itself, and text one to the user.
"""

from dragoman.output.markup import NAME, ParameterMarkup, ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat, text_before_calls

MARKUP = ToolCallMarkup(
    trigger=" to=",
    only_at_start=True,
    head_before_name=" to=",
    head_after_name=f'<|message|><atem:function_calls>\n<atem:invoke name="{NAME}">\n',
    parameters=ParameterMarkup(before_name='<atem:parameter name="', after_name='">', close="</atem:parameter>"),
    tail="</atem:invoke>\n</atem:function_calls>",
    separator="<|eom|><|start|>assistant",
    special_tokens=("<|start|>", "<|message|>", "<|eom|>"),
)

FORMAT = ToolFormat(markup=MARKUP, adapt=text_before_calls)
