import pytest

from dragoman.prompt.named_templates import join_templates
from dragoman.prompt.sandbox import SandboxedTemplate
from tests.support.chat_templates import ALTERNATING, HERMES, LLAMA3, MISTRAL, UNKNOWN_TOOLS

SOURCES = [HERMES, LLAMA3, MISTRAL, UNKNOWN_TOOLS, ALTERNATING, "\n  a \n\n", "a\n  ", "", "{% set messages = [] %}\n"]


@pytest.mark.parametrize("default", SOURCES)
@pytest.mark.parametrize("tool_use", SOURCES)
def test_joined_templates_write_what_each_of_them_writes(default: str, tool_use: str) -> None:
    def rendered(source: str, tools: list[str] | None) -> str:
        variables = {"messages": [{"role": "user", "content": "Hi"}], "tools": tools, "add_generation_prompt": True}
        return SandboxedTemplate(source).render({"bos_token": "<s>", "eos_token": "</s>", **variables})

    joined = join_templates(default, tool_use)
    assert joined is not None
    assert rendered(joined, None) == rendered(default, None)
    assert rendered(joined, ["f"]) == rendered(tool_use, ["f"])


def test_without_one_of_both_there_is_nothing_to_join() -> None:
    assert join_templates("a\n", None) == "a\n"
    assert join_templates(None, "b") is None
