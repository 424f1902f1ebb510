"""DeepSeek V3.2: a section of calls, each with a tagged value for each parameter, which says whether it is a string.

<｜DSML｜function_calls>
<｜DSML｜invoke name="get_weather">
<｜DSML｜parameter name="city" string="true">Oslo</｜DSML｜parameter>
<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>
</｜DSML｜invoke>
</｜DSML｜function_calls>
"""

from dragoman.output.markup import ParameterMarkup, ToolCallMarkup
from dragoman.prompt.tool_formats.format import ToolFormat


def dsml(section: str) -> ToolCallMarkup:
    """Return the markup with this name of a section."""
    return ToolCallMarkup(
        trigger=f"<｜DSML｜{section}>",
        section_open=f"<｜DSML｜{section}>\n",
        head_before_name='<｜DSML｜invoke name="',
        head_after_name='">\n',
        parameters=ParameterMarkup(
            before_name='<｜DSML｜parameter name="',
            after_name='" string="true">',
            after_name_of_json='" string="false">',
            close="</｜DSML｜parameter>",
        ),
        tail="</｜DSML｜invoke>",
        separator="\n",
        section_close=f"\n</｜DSML｜{section}>",
        special_tokens=("｜DSML｜",),
    )


MARKUP = dsml("function_calls")

FORMAT = ToolFormat(markup=MARKUP)
