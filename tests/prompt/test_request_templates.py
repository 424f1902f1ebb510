import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from dragoman.core.errors import BadRequest, Overloaded
from dragoman.core.request import ChatPrompt, Message, Tool, ToolOptions
from dragoman.prompt.request_templates import MAX_SOURCE_BYTES, MAX_WAITING, RequestTemplateRenderer
from dragoman.prompt.template import MAX_STEPS_IN_PLACE, ChatTemplate, RenderedPrompt
from tests.support.chat_templates import ALTERNATING, HERMES, SWITCHABLE_REASONING
from tests.support.timeouts import TEST_TIMEOUT_SECONDS

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = ChatTemplate(SWITCHABLE_REASONING, bos="<s>", eos="</s>")
CONTEXT_LENGTH = 100
MESSAGES = (Message(role="user", content="Hi"),)
HARMLESS = ChatPrompt(messages=MESSAGES, template="{{ bos_token }}{{ messages[0].content }}{{ name }}{{ eos_token }}")
ENDLESS = ChatPrompt(
    messages=MESSAGES, template="{% for x in range(99999) %}{% for y in range(99999) %}{% endfor %}{% endfor %}"
)
DEEP = "{% set ns = namespace(a=[]) %}{% for i in range(9999) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a | tojson }}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def templates() -> AsyncIterator[RequestTemplateRenderer]:
    """A renderer for all tests: it serves the next template whatever the last one did. Only endless ones are late."""
    renderer = RequestTemplateRenderer(deadline_seconds=TEST_TIMEOUT_SECONDS)
    yield renderer
    await renderer.close()


async def render(
    templates: RequestTemplateRenderer, prompt: ChatPrompt, *, constrained: bool = False
) -> RenderedPrompt:
    async with asyncio.timeout(2 * TEST_TIMEOUT_SECONDS):
        return await templates.render(prompt, model=MODEL, context_length=CONTEXT_LENGTH, constrained=constrained)


async def rejection(templates: RequestTemplateRenderer, prompt: ChatPrompt) -> tuple[str, str | None]:
    with pytest.raises(BadRequest) as caught:
        await render(templates, prompt)
    return caught.value.message, caught.value.parameter


def renderer_processes() -> list[Path]:
    """Return the folders in /proc of this process's renderers."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_child = f"\nPPid:\t{os.getpid()}\n" in (folder / "status").read_text()
            if is_child and b"template_process" in (folder / "cmdline").read_bytes():
                found.append(folder)
    return found


async def test_a_template_of_the_request_is_applied_with_the_models_special_tokens(
    templates: RequestTemplateRenderer,
) -> None:
    assert (await render(templates, HARMLESS)).text == "<s>Hi</s>"
    named = ChatPrompt(messages=MESSAGES, template=HARMLESS.template, template_arguments={"name": ["ü"]})
    assert (await render(templates, named)).text == "<s>Hi['ü']</s>"


async def test_the_models_own_template_takes_arguments(templates: RequestTemplateRenderer) -> None:
    prompt = ChatPrompt(messages=MESSAGES, template_arguments={"enable_thinking": False})
    rendered = await render(templates, prompt)
    assert rendered.text.endswith("@assistant <think>\n\n</think>\n\n")
    assert rendered.parser_spec.reasoning is None
    assert await render(templates, ChatPrompt(messages=MESSAGES, template_arguments={"x": 1})) == MODEL.render(prompt)


async def test_a_set_tool_format_holds_for_the_models_own_template_only(templates: RequestTemplateRenderer) -> None:
    model = ChatTemplate(HERMES, bos="", eos="", tool_format="mistral")
    prompts = (
        ChatPrompt(messages=MESSAGES, tools=ToolOptions((Tool("f"),)), template_arguments={"x": 1}),
        ChatPrompt(messages=MESSAGES, tools=ToolOptions((Tool("f"),)), template=HERMES),
    )
    async with asyncio.timeout(2 * TEST_TIMEOUT_SECONDS):
        own, other = [await templates.render(prompt, model=model, context_length=1000) for prompt in prompts]
    assert own.parser_spec.tool_format == "mistral"
    assert '[TOOL_CALLS] [{"name": "name_of_the_function"' in own.text
    assert other.parser_spec.tool_format == "hermes"
    assert "Functions:" in other.text


async def test_a_reasoning_model_reasons_under_a_template_without_reasoning_support(
    templates: RequestTemplateRenderer,
) -> None:
    rendered = await render(templates, ChatPrompt(messages=MESSAGES, template=ALTERNATING), constrained=True)
    assert rendered.text == "[user]Hi[assistant]<think>\n"
    assert rendered.parser_spec.reasoning is not None


@pytest.mark.parametrize("name", ["messages", "tools", "bos_token", "eos_token", "add_generation_prompt"])
async def test_reserved_variables_cannot_be_template_arguments(templates: RequestTemplateRenderer, name: str) -> None:
    prompt = ChatPrompt(messages=MESSAGES, template_arguments={name: ""})
    assert await rejection(templates, prompt) == (
        f"The chat template's variable '{name}' cannot be set",
        "chat_template_kwargs",
    )


async def test_a_number_that_no_frame_can_hold_is_refused(templates: RequestTemplateRenderer) -> None:
    message, parameter = await rejection(templates, ChatPrompt(messages=MESSAGES, template_arguments={"x": 10**30}))
    assert "cannot be passed on" in message
    assert parameter == "chat_template_kwargs"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("a\nb\n{{ } }}", "line 3: unexpected '}'"),
        ("\n{{ 1 / 0 }}", "line 2: division by zero"),
        ("{{ raise_exception('Take ' ~ 'turns') }}", "refuses these messages: Take turns"),
        ("{{ raise_exception('\\ud800' ~ 'a' * 10**7) }}", "refuses these messages: ?aaa"),
        ("{{ 'a' * 10**9 }}", "line 1: it needs too much memory"),
        ("{% set a = 'a' * 10**7 %}{{ a * 100 }}", "too much memory"),
        ("{{ messages | tojson(indent=10**9) }}", "too much memory"),
        ("{{ '%1000000000d' % 1 }}", "too much memory"),
        ("{{ 'a' * 1601 }}", "it writes more than 1600 characters"),
        ("{% for x in range(10**9) %}{% endfor %}", "Range too big"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% import 'os' as os %}", "no loader"),
        ("{% extends 'a' %}", "no loader"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        ("{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}", "recursion"),
        ("{{ 1" + " + 1" * 10_000 + " }}", "recursion"),
        (DEEP, "recursion"),
        ("{% for x in [1] %}" * 50 + "{% endfor %}" * 50, "too many statically nested blocks"),
        ("{{ '\\ud800' }}", "surrogates not allowed"),
        ("{#" + "a" * MAX_SOURCE_BYTES + "#}", "larger than 65536 bytes"),
    ],
)
async def test_a_hostile_template_is_refused_and_the_next_one_served(
    templates: RequestTemplateRenderer, source: str, reason: str
) -> None:
    message, parameter = await rejection(templates, ChatPrompt(messages=MESSAGES, template=source))
    assert reason in message
    assert len(message) < 1000
    assert parameter == "chat_template"
    assert (await render(templates, HARMLESS)).text == "<s>Hi</s>"


async def test_a_template_that_never_ends_is_killed_and_the_next_one_served() -> None:
    before = renderer_processes()
    templates = RequestTemplateRenderer()
    message, _ = await rejection(templates, ENDLESS)
    assert message == "The chat template cannot be applied: it did not finish within 2 s"
    assert renderer_processes() == before
    assert (await render(templates, HARMLESS)).text == "<s>Hi</s>"
    await templates.close()


async def test_a_cancelled_request_does_not_affect_the_next_one(templates: RequestTemplateRenderer) -> None:
    await render(templates, HARMLESS)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await render(templates, ENDLESS)
    assert (await render(templates, HARMLESS)).text == "<s>Hi</s>"


async def test_too_many_waiting_requests_are_refused_and_the_others_served(templates: RequestTemplateRenderer) -> None:
    waiting = [asyncio.create_task(render(templates, HARMLESS)) for _ in range(MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await render(templates, HARMLESS)
    assert [rendered.text for rendered in await asyncio.gather(*waiting)] == ["<s>Hi</s>"] * MAX_WAITING
    assert (await render(templates, HARMLESS)).text == "<s>Hi</s>"


async def test_the_process_is_started_on_first_use_has_no_secrets_and_ends_with_its_owner() -> None:
    templates = RequestTemplateRenderer()
    before = set(renderer_processes())
    await templates.close()
    await render(templates, HARMLESS)
    await render(templates, HARMLESS)
    (process,) = set(renderer_processes()) - before
    names = {entry.partition(b"=")[0] for entry in (process / "environ").read_bytes().split(b"\0") if entry}
    assert names <= {b"PYTHONPATH", b"TZ"}
    await templates.close()
    assert set(renderer_processes()) == before


ENDLESS_MODEL = ChatTemplate(ENDLESS.template, bos="", eos="", max_steps=MAX_STEPS_IN_PLACE)
LONG = ChatPrompt(messages=(Message(role="user", content="x" * 100_000),))
SHORT = ChatPrompt(messages=MESSAGES)


async def test_a_models_own_template_is_rendered_in_the_process_only_for_long_prompts() -> None:
    renderer = RequestTemplateRenderer(deadline_seconds=TEST_TIMEOUT_SECONDS)
    before = set(renderer_processes())
    assert MODEL.render_in_place(SHORT) == MODEL.render(SHORT)
    assert (
        MODEL.render_in_place(LONG) is MODEL.render_in_place(HARMLESS) is ENDLESS_MODEL.render_in_place(SHORT) is None
    )
    assert await render(renderer, LONG) == MODEL.render(LONG)
    assert len(set(renderer_processes()) - before) == 1
    await renderer.close()


async def test_a_models_own_template_that_does_not_end_is_given_up_and_stops_no_other() -> None:
    renderer = RequestTemplateRenderer(deadline_seconds=1)
    endless = [
        asyncio.create_task(renderer.render(SHORT, model=ENDLESS_MODEL, context_length=CONTEXT_LENGTH, owner="a"))
        for _ in range(3)
    ]
    await asyncio.sleep(0)
    other = await renderer.render(SHORT, model=MODEL, context_length=CONTEXT_LENGTH, owner="b")
    assert other == MODEL.render(SHORT)
    assert sum(task.done() for task in endless) == 1, "owners take turns"
    for task in endless:
        with pytest.raises(
            BadRequest, match=r"The model's chat template cannot be applied: it did not finish"
        ) as caught:
            await task
        assert caught.value.parameter == "messages"
    await renderer.close()


async def test_slow_templates_of_requests_do_not_delay_long_prompts_of_others() -> None:
    renderer = RequestTemplateRenderer(deadline_seconds=TEST_TIMEOUT_SECONDS)
    slow = [
        asyncio.create_task(renderer.render(ENDLESS, model=MODEL, context_length=CONTEXT_LENGTH, owner=f"{number % 2}"))
        for number in range(MAX_WAITING)
    ]
    await asyncio.sleep(0)
    other = await renderer.render(LONG, model=MODEL, context_length=CONTEXT_LENGTH, owner="other")
    assert other == MODEL.render(LONG)
    assert not any(task.done() for task in slow)
    for task in slow:
        task.cancel()
    await asyncio.wait(slow)
    await renderer.close()
