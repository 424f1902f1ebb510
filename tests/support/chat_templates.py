"""Chat templates of the known families, reduced to what tools and reasoning need."""

import functools
from pathlib import Path

import pytest

from dragoman.output.markup import ToolFormatName
from dragoman.prompt.template import ChatTemplate

OPEN_MODELS = Path(__file__).parents[3] / "shared" / "templates"
"""Chat templates of open models, where they lie beside the project. Their licences keep them out of it."""

requires_open_models = pytest.mark.skipif(
    not OPEN_MODELS.is_dir(), reason="the templates of open models do not lie beside the project"
)


def open_model_template(model: str) -> str:
    """Return the chat template of an open model."""
    return (OPEN_MODELS / f"{model}.jinja").read_text(encoding="utf-8")


@functools.cache
def open_chat_template(model: str) -> ChatTemplate:
    """Compile the chat template of an open model, once in each process: rendering takes a hundredth of the time."""
    return ChatTemplate(open_model_template(model), bos="<s>", eos="</s>")


HERMES = """
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{% endif %}
    {{- 'Functions:\\n' }}
    {%- for tool in tools %}{{ tool | tojson + '\\n' }}{% endfor %}
    {{- 'Call them with <tool_call> tags.<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages if message.role != 'system' %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content }}
        {%- for call in message.tool_calls or [] %}
            {%- if message.content or not loop.first %}{{ '\\n' }}{% endif %}
            {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson + '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

QWEN3_CODER = HERMES.replace(
    """            {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson + '}\\n</tool_call>' }}
""",
    """            {{- '<tool_call>\\n<function=' + call.function.name + '>\\n' }}
            {%- for name, value in call.function.arguments | items %}
                {{- '<parameter=' + name + '>\\n' + (value if value is string else value | tojson) }}
                {{- '\\n</parameter>\\n' }}
            {%- endfor %}
            {{- '</function>\\n</tool_call>' }}
""",
)

LLAMA3 = """
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + ('ipython' if message.role == 'tool' else message.role) + '<|end_header_id|>\\n\\n' }}
    {%- if message.role == 'system' and tools %}
        {%- for tool in tools %}{{ tool | tojson + '\\n' }}{% endfor %}
    {%- endif %}
    {%- if 'tool_calls' in message %}
        {%- if message.tool_calls | length != 1 %}
            {{- raise_exception('This model only supports single tool-calls at once!') }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + '}' }}
    {%- else %}
        {{- message.content }}
    {%- endif %}
    {{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""

MISTRAL = """
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- if tools is not none and loop.last %}
            {{- '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST] ' + message.content + '[/INST]' }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- '[TOOL_CALLS] [' }}
        {%- for call in message.tool_calls %}
            {%- if call.id | length != 9 %}{{ raise_exception('Tool call IDs should have length 9!') }}{% endif %}
            {{- '{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments | tojson + '}' }}
            {{- ', ' if not loop.last else ']' + eos_token }}
        {%- endfor %}
    {%- elif message.role == 'assistant' %}
        {{- ' ' + message.content + eos_token }}
    {%- elif message.role == 'tool' %}
        {%- if message.tool_call_id | length != 9 %}
            {{- raise_exception('Tool call IDs should have length 9!') }}
        {%- endif %}
        {{- '[TOOL_RESULTS] {"content": ' + message.content | tojson + ', "call_id": "' + message.tool_call_id + '"}' }}
        {{- '[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception('Only user and assistant roles are supported!') }}
    {%- endif %}
{%- endfor %}"""

LFM2 = """
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content }}
    {%- if loop.first and tools %}{{ "List of tools: [" + tools | map('tojson') | join(', ') + ']' }}{% endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
"""Leaves earlier calls out; like LFM2."""

PYTHONIC = LLAMA3.replace(
    """        {%- if message.tool_calls | length != 1 %}
            {{- raise_exception('This model only supports single tool-calls at once!') }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + '}' }}
""",
    """        {{- '[' }}
        {%- for call in message.tool_calls %}
            {{- call.function.name + '(' }}
            {%- for name in call.function.arguments %}
                {{- name + '=' + '%s' | format(call.function.arguments[name]) + ('' if loop.last else ', ') }}
            {%- endfor %}
            {{- ')' + ('' if loop.last else ', ') }}
        {%- endfor %}
        {{- ']' }}
""",
)
"""Writes the strings of earlier calls without quotes; like Llama 3.2."""

GEMMA4 = """
{%- macro written(value) %}
    {%- if value is string %}{{ '<|"|>' + value + '<|"|>' }}
    {%- elif value is boolean %}{{ 'true' if value else 'false' }}
    {%- elif value is mapping %}
        {{- '{' }}
        {%- for name in value %}{{ name + ':' + written(value[name]) + ('' if loop.last else ',') }}{% endfor %}
        {{- '}' }}
    {%- elif value is sequence %}
        {{- '[' }}{% for item in value %}{{ written(item) + ('' if loop.last else ',') }}{% endfor %}{{ ']' }}
    {%- else %}{{ value }}{% endif %}
{%- endmacro %}
{%- for message in messages %}
    {{- '<|turn>' + message.role + '\\n' }}
    {%- if loop.first and tools %}{{ tools | map('tojson') | join }}{% endif %}
    {%- for call in message.tool_calls or [] %}
        {{- '<|tool_call>call:' + call.function.name + written(call.function.arguments) + '<tool_call|>' }}
    {%- endfor %}
    {{- message.content + '<turn|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|turn>model\\n' }}{% endif %}"""

KIMI_K3 = """
{%- macro open_tag(tag) -%}<|open|>{{ tag }}<|sep|>{%- endmacro -%}
{%- macro close_tag(tag) -%}<|close|>{{ tag }}<|sep|>{%- endmacro -%}
{%- macro type_of(v) -%}
{{ 'string' if v is string else 'boolean' if v is boolean else 'null' if v is none else 'number' if v is number
   else 'object' if v is mapping else 'array' }}
{%- endmacro -%}
{%- if tools -%}
{{ open_tag('message role="system"') }}{% for tool in tools %}{{ tool.function | tojson }}{% endfor %}{{
   close_tag('message') }}<|end_of_msg|>
{%- endif -%}
{%- for m in messages -%}
{{ open_tag('message role="' ~ m.role ~ '"') }}
{%- if m.role == 'assistant' -%}
{{ open_tag('think') }}{{ m.reasoning_content }}{{ close_tag('think') }}{{
   open_tag('response') }}{{ m.content }}{{ close_tag('response') }}
{%- if m.tool_calls -%}
{{ open_tag('tools') }}
{%- for c in m.tool_calls -%}
{{ open_tag('call tool="' ~ c.function.name ~ '" index="' ~ loop.index ~ '"') }}
{%- for k, v in c.function.arguments.items() -%}
{{ open_tag('argument key="' ~ k ~ '" type="' ~ type_of(v) ~ '"') }}{{ v if v is string else v | tojson }}{{
   close_tag('argument') }}
{%- endfor -%}
{{ close_tag('call') }}
{%- endfor -%}
{{ close_tag('tools') }}
{%- endif -%}
{%- else -%}
{{ m.content }}
{%- endif -%}
{{ close_tag('message') }}<|end_of_msg|>
{%- endfor -%}
{%- if add_generation_prompt -%}{{ open_tag('message role="assistant"') }}{{ open_tag('think') }}{%- endif -%}
"""

COMMAND_R = """
{%- for message in messages %}
    {%- set role = {'user': 'USER', 'assistant': 'CHATBOT'}.get(message.role, 'SYSTEM') %}
    {{- '<|START_OF_TURN_TOKEN|><|' + role + '_TOKEN|>' }}
    {%- if message.role == 'tool' %}{{ '<results>\\n' + message.content + '</results>' }}
    {%- else %}{{ message.content }}{% endif %}
    {%- if loop.first and tools %}
        {%- for tool in tools %}
            {{- '\\n' + tool.function | tojson }}
            {%- for name, field in tool.function.parameters.properties | items %}
                {{- '\\n' + name + ' (' + (field.type or 'Any') ~ '): ' + field.description }}
            {%- endfor %}
        {%- endfor %}
    {%- endif %}
    {%- for call in message.tool_calls or [] %}
        {{- 'Action:\\n```json\\n[\\n' if loop.first else ',\\n' }}
        {{- '    {\\n        "tool_name": "' + call.function.name + '",\\n        "parameters": ' }}
        {{- call.function.arguments | tojson + '\\n    }' + ('\\n]\\n```' if loop.last else '') }}
    {%- endfor %}
    {{- '<|END_OF_TURN_TOKEN|>' }}
{%- endfor %}
{{- '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>You should use the `directly-answer` tool without others.' }}
{%- if add_generation_prompt %}{{ '<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"""

EXAONE4 = """
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- '[|tool|]\\n<tool_result>{"result": ' + message.content | tojson + '}</tool_result>[|endofturn|]\\n' }}
        {%- continue %}
    {%- endif %}
    {{- '[|' + message.role + '|]\\n' }}
    {%- if message.role == 'assistant' %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}
    {{- message.content.split('</think>')[-1] }}
    {%- if loop.first and tools %}
        {%- for tool in tools %}
            {{- '\\n<tool>' }}{{ tool | tojson(ensure_ascii=False) | safe }}{{ '</tool>' }}
        {%- endfor %}
    {%- endif %}
    {%- for call in message.tool_calls or [] %}
        {%- if message.content or not loop.first %}{{ '\\n' }}{% endif %}
        {{- '<tool_call>{"name": "' + call.function.name + '", "arguments": ' }}
        {{- call.function.arguments | tojson(ensure_ascii=False) | safe }}{{ '}</tool_call>' }}
    {%- endfor %}
    {{- '[|endofturn|]\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '[|assistant|]\\n<think>\\n' }}
    {%- if enable_thinking is not defined or not enable_thinking %}{{ '\\n</think>\\n\\n' }}{% endif %}
{%- endif %}"""

SMOLLM3 = """
{%- set thinks = enable_thinking is not defined or enable_thinking %}
{{- '<|im_start|>system\\nMode: ' + ('/think' if thinks else '/no_think') }}
{%- if messages[0].role == 'system' %}{{ '\\n' + messages[0].content }}{% endif %}
{%- if xml_tools is defined or python_tools is defined %}
    {{- '\\n<tools>\\n' }}
    {%- for tool in xml_tools %}{{ (tool | tojson) + '\\n' }}{% endfor %}
    {{- '</tools>\\nCall them within <tool_call></tool_call>.' }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role in ['user', 'tool'] %}{{ '<|im_start|>user\\n' + content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {%- generation %}
            {{- '<|im_start|>assistant\\n' + ('' if thinks else '<think>\\n\\n</think>\\n') + content }}
            {{- '<|im_end|>\\n' }}
        {%- endgeneration %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' + ('' if thinks else '<think>\\n\\n</think>\\n') }}
{%- endif %}"""
"""Takes the functions in a variable of its own, leaves earlier calls out, and writes results as a user's messages."""

FUNCTIONARY_V32 = """
{%- for message in messages %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}
    {%- if message.role != 'assistant' %}{{ message.content }}
    {%- elif message.content %}{{ '>>>all\\n' + message.content }}{% endif %}
    {%- if loop.first and tools %}{{ tools | map('tojson') | join }}{% endif %}
    {%- for call in message.tool_calls or [] %}
        {{- '>>>' + call.function.name + '\\n' + call.function.arguments }}
    {%- endfor %}
    {{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n>>>' }}{% endif %}"""
"""Ends the prompt with what begins a text or a call, and writes arguments as text."""

MINIMAX_M3 = """
{%- set ns = ']<]minimax[>[' %}
{%- macro elements(value) %}
    {%- if value is mapping %}
        {%- for k, v in value.items() if v is not none %}{{ element(k, v) }}{% endfor %}
    {%- elif value is iterable and value is not string %}
        {%- for item in value %}{{ element('item', item) }}{% endfor %}
    {%- else %}{{ value | tojson if value is boolean else value }}{% endif %}
{%- endmacro %}
{%- macro element(name, value) %}
    {{- ns + '<' + name + '>' + elements(value) + ns + '</' + name + '>' }}
{%- endmacro %}
{%- for message in messages %}
    {{- ']~b]' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {{- ('<mm:think>' + message.reasoning_content if message.reasoning_content else '') + '</mm:think>' }}
    {%- endif %}
    {{- message.content }}
    {%- if loop.first and tools %}{{ tools | map('tojson') | join }}{% endif %}
    {%- for call in message.tool_calls or [] %}
        {{- ns + '<tool_call>\\n' if loop.first }}
        {{- ns + '<invoke name="' + call.function.name + '">' }}{{ elements(call.function.arguments) }}
        {{- ns + '</invoke>\\n' + (ns + '</tool_call>' if loop.last else '') }}
    {%- endfor %}
    {{- '[e~[\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- ']~b]assistant\\n' }}
    {%- if thinking_mode is defined %}
        {{- '</mm:think>' if thinking_mode == 'disabled' else '<mm:think>' if thinking_mode == 'enabled' else '' }}
    {%- endif %}
{%- endif %}"""
"""Writes arguments as elements, and the end of the reasoning before every answer."""

UNKNOWN_TOOLS = """
{%- if tools %}{{ '@tools ' + tools | tojson }}{% endif %}
{%- for message in messages %}{{ '@' + message.role + ' ' + message.content + '\\n' }}{% endfor %}
{{- '@assistant ' }}"""
"""Writes tools in an unknown format."""

ALTERNATING = """
{%- if messages[0].role == 'system' %}
    {{- '<<' + messages[0].content + '>>' }}
    {%- set messages = messages[1:] %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate') }}
    {%- endif %}
    {{- '[' + message.role + ']' + message.content }}
{%- endfor %}
{{- '[assistant]' }}"""
"""Has no tools and requires user and assistant to alternate."""

SWITCHABLE_REASONING = """
{%- for message in messages %}
    {{- '@' + message.role + ' ' }}
    {%- if message.reasoning_content %}{{ '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}{% endif %}
    {{- message.content + '\\n' }}
{%- endfor %}
{{- '@assistant ' }}
{%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"""
"""Lets the model open its reasoning unless a variable turns it off; like Qwen 3."""

ALWAYS_REASONING = """
{%- for message in messages %}
    {{- '@' + message.role + ' ' + message.content.split('</think>')[-1] + '\\n' }}
{%- endfor %}
{{- '@assistant <think>\\n' }}"""
"""Opens the reasoning itself; like QwQ and DeepSeek R1."""

EFFORT_REASONING = """
{{- 'Effort: ' + reasoning_effort | default('its own') + '\\n' }}
{%- for message in messages %}
    {{- '@' + message.role + ' ' + message.content.split('</think>')[-1] + '\\n' }}
{%- endfor %}
{{- '@assistant ' }}"""
"""Takes the effort as a word and cannot turn reasoning off."""

WRITING: list[tuple[ToolFormatName, str]] = [
    ("hermes", HERMES),
    ("llama3", LLAMA3),
    ("mistral", MISTRAL),
    ("qwen3_coder", QWEN3_CODER),
    ("lfm2", LFM2),
    ("pythonic", PYTHONIC),
    ("gemma4", GEMMA4),
    ("kimi_k3", KIMI_K3),
    ("command_r", COMMAND_R),
    ("exaone4", EXAONE4),
]
"""Templates that write calls, with their formats."""
