"""MiniCPM 5: each call has a tagged value for each parameter, and strings that need it are CDATA.

<function name="get_weather"><param name="city">Oslo</param><param name="note"><![CDATA[a < b]]></param></function>
"""

from dragoman.output.markup import ParameterMarkup, ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = ToolCallMarkup(
    trigger='<function name="',
    head_before_name='<function name="',
    head_after_name='">',
    parameters=ParameterMarkup(
        before_name='<param name="',
        after_name='">',
        close="</param>",
        after_close="",
        wrapper=("<![CDATA[", "]]>"),
    ),
    tail="</function>",
    separator="\n",
    special_tokens=("<function", "</function>", "<param", "</param>"),
)

FORMAT = ToolFormat(markup=MARKUP)
