import msgspec

from dragoman.core.models import ServedModel
from dragoman.dialects.vendors.infermatic.codec import model_card


def test_a_model_has_no_tool_format_until_its_engine_has_reported_it() -> None:
    constants = {"object": "model", "created": 1677610602, "owned_by": "openai"}
    unknown = ServedModel(id="m", aliases=("alias",), context_length=None)
    assert msgspec.to_builtins(model_card(unknown, "alias")) == {"id": "alias", **constants}
    known = ServedModel(id="m", aliases=(), context_length=1, tool_format="hermes", supports_reasoning=True)
    assert msgspec.to_builtins(model_card(known, "m")) == {
        "id": "m",
        **constants,
        "tool_format": "hermes",
        "supports_reasoning": True,
        "max_model_len": 1,
    }
