"""The end of a turn, found in chat templates of a tiny model whose file names another end."""

from collections.abc import Iterator

import pytest

from dragoman.engines.llama.native.model import Model
from dragoman.engines.llama.process.turn_end import turn_end_tokens
from tests.support.captured_logs import capture_logs
from tests.support.chat_templates import FUNCTIONARY_V32, HERMES, KIMI_K3
from tests.support.special_token_model import load_special_token_model

TOKENS = ("<|over|>", "<|user|>", "<|open|>", "<|sep|>", "<|close|>", "<|end_of_msg|>", "<tool_call>", "</tool_call>")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    model = load_special_token_model(tmp_path_factory.mktemp("model") / "tiny.gguf", TOKENS)
    yield model
    model.close()


def turns(end: str, begin: str = "") -> str:
    return f"{{% for m in messages %}}{begin}{{{{ m.role }}}}: {{{{ m.content }}}}{end}{{% endfor %}}"


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (turns("<|over|>\n"), "<|over|>"),
        (turns("\n<|over|>\n"), "<|over|>"),
        (turns("\n", begin="<|user|>"), "<|user|>"),
        (turns("\n"), None),
        (turns("</s>"), None),
        (turns("{{ eos_token }}<|over|>"), None),
        (turns("<|over|></s>"), None),
        (turns("{{ raise_exception('No.') }}"), None),
        (turns("{% for n in range(99999) %}{{ n }}{% endfor %}<|over|>"), None),
        (None, None),
        (HERMES, None),
        (KIMI_K3, None),
        (FUNCTIONARY_V32.replace("<|eot_id|>", "<|over|>"), "<|over|>"),
    ],
)
def test_the_token_behind_an_answer_ends_it_unless_the_template_has_an_end_of_the_file(
    tiny: Model, template: str | None, end: str | None
) -> None:
    with capture_logs() as logged:
        found = turn_end_tokens(tiny.vocabulary, template)
    assert [tiny.vocabulary.piece(token).decode() for token in found] == ([] if end is None else [end])
    assert [each["texts"] for each in logged] == ([] if end is None else [[end]])
