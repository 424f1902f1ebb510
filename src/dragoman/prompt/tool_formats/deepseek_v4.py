"""DeepSeek V4: as DeepSeek V3.2, but the section is <｜DSML｜tool_calls>."""

from dragoman.prompt.tool_formats.deepseek_v32 import dsml
from dragoman.prompt.tool_formats.format import ToolFormat

MARKUP = dsml("tool_calls")

FORMAT = ToolFormat(markup=MARKUP)
