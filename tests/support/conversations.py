"""Conversations as OpenAI's clients send them, of every kind that a chat template may treat in its own way."""

from dragoman.core.request import ChatPrompt, Message, Tool, ToolCall, ToolOptions

_WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "The city's name."},
        "days": {"type": "integer", "description": "Number of days."},
    },
    "required": ["city"],
}
_TOOLS = ToolOptions(
    (
        Tool("get_weather", "Tells the weather of a city.", _WEATHER),
        Tool("get_time", "Tells the time.", {"type": "object", "properties": {}}),
    )
)
_OSLO = ToolCall("aB3dE6gH9", "get_weather", '{"city": "Oslo", "days": 2}')
_ROME = ToolCall("kL2mN5pQ8", "get_weather", '{"city": "Rome"}')
_TIME = ToolCall("kL2mN5pQ8", "get_time", "{}")


def _system(content: str) -> Message:
    return Message(role="system", content=content)


def _user(content: str) -> Message:
    return Message(role="user", content=content)


def _assistant(content: str, *calls: ToolCall, reasoning: str | None = None) -> Message:
    return Message(role="assistant", content=content, tool_calls=calls, reasoning=reasoning)


def _result(content: str, call: ToolCall) -> Message:
    return Message(role="tool", content=content, tool_call_id=call.id)


def _with_tools(*messages: Message) -> ChatPrompt:
    return ChatPrompt(messages=messages, tools=_TOOLS)


CONVERSATIONS: dict[str, ChatPrompt] = {
    "plain": ChatPrompt(messages=(_user("Hi there"),)),
    "system": ChatPrompt(messages=(_system("Be brief."), _user("Hi there"))),
    "turns": ChatPrompt(messages=(_system("Be brief."), _user("Hi"), _assistant("Hello!"), _user("Why?"))),
    "tools": _with_tools(_system("Be brief."), _user("Weather in Oslo?")),
    "call": _with_tools(_user("Weather in Oslo?"), _assistant("", _OSLO), _result('{"temperature": 7}', _OSLO)),
    "call_of_an_earlier_turn": _with_tools(
        _user("Weather in Oslo?"),
        _assistant("", _OSLO),
        _result('{"temperature": 7}', _OSLO),
        _assistant("7 degrees."),
        _user("And Rome?"),
    ),
    "call_without_arguments": _with_tools(_user("Time?"), _assistant("", _TIME), _result("12:00", _TIME)),
    "parallel_calls": _with_tools(
        _user("Weather in Oslo and Rome?"), _assistant("", _OSLO, _ROME), _result("7", _OSLO), _result("20", _ROME)
    ),
    "text_and_call": _with_tools(_user("Weather?"), _assistant("I look it up.", _OSLO), _result("7", _OSLO)),
    "thoughts": ChatPrompt(messages=(_user("2+2?"), _assistant("4.", reasoning="Two and two."), _user("And 3?"))),
    "thoughts_and_call": _with_tools(
        _user("Weather in Oslo?"), _assistant("", _OSLO, reasoning="I need the weather."), _result("7", _OSLO)
    ),
    "late_system": ChatPrompt(
        messages=(_system("Be brief."), _user("Hi"), _assistant("Hello!"), _system("Now in French."), _user("Well?"))
    ),
    "user_twice": ChatPrompt(messages=(_user("Hi."), _user("Are you there?"))),
    "markup": ChatPrompt(
        messages=(
            _system("Grüße <b>&amp;</b>"),
            _user('日本語 <|im_end|>\n<tool_call> {{ 7*7 }} "q" \u2028'),
            _assistant("{% x %} [INST] 'é'"),
            _user("<|eot_id|>?"),
        )
    ),
    "result_without_call": _with_tools(_user("Weather in Oslo?"), _result("7", _OSLO)),
    "documents": ChatPrompt(
        messages=(_user("Where is the key?"),),
        documents=({"doc_id": 1, "title": "Keys", "text": "Under the mat."},),
    ),
    "continued": ChatPrompt(
        messages=(_user("Name a city."), _assistant("One city is ")),
        add_generation_prompt=False,
        continue_final_message=True,
    ),
    "no_generation_prompt": ChatPrompt(
        messages=(_user("Name a city."), _assistant("Oslo.")), add_generation_prompt=False
    ),
}
