"""An answer can be told again with nothing but what was sent."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given

from dragoman.core.errors import BadRequest, EngineFailed
from dragoman.core.events import Delta, Event, Finished, Usage
from dragoman.core.jobs import StoredRequest
from dragoman.core.service import ServedModel
from dragoman.dialects.form import Asked, Call, asked_again
from dragoman.server.app import DIALECTS, FORMS
from tests.support.answers import InfermaticChat, answers
from tests.support.occasions import CREATED, ID, occasion

MODELS = [ServedModel("echo", ("parrot",), 8192, "fp_0123456789ab")]
CHAT: dict[str, Any] = {"model": "parrot", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
TEXT: dict[str, Any] = {"model": "parrot", "prompt": "Hi", "stream_options": {"include_usage": True}}
BODIES: dict[str, dict[str, Any]] = {
    "infermatic.chat": CHAT,
    "infermatic.text": TEXT,
    "infermatic.queued_chat": CHAT | {"priority": 3},
    "float16.chat": CHAT,
    "float16.text": TEXT,
    "empower.chat": CHAT,
    "arcee.chat": CHAT,
    "scale.deployment_chat": {"prompt": "Hi", "chat_history": []},
    "scale.deployment_text": {"prompt": "Hi"},
    "scale.chat": CHAT,
    "scale.text": TEXT,
}
ANSWER: list[Event] = [Delta(0, "Hel", [1]), Delta(0, "lo", [2]), Finished(0, "stop"), Usage(3, 2, 1)]


def told(call: Call) -> list[bytes]:
    documents = [document for event in ANSWER for document in call.machine.feed(event)]
    return [*documents, call.machine.terminator(), call.machine.collected()]


def test_every_form_of_every_dialect_has_a_name_of_its_own_that_stays() -> None:
    assert FORMS.keys() == BODIES.keys()
    assert len(FORMS) == sum(len(dialect.forms) for dialect in DIALECTS.values())


@pytest.mark.parametrize("name", BODIES)
def test_an_answer_is_told_the_same_later_and_elsewhere_whatever_is_served_then(name: str) -> None:
    form = FORMS[name]
    arguments = {"deployment": "echo"} if name.startswith(("float16", "scale.deployment")) else {}
    first, body = occasion(MODELS, **arguments), json.dumps(BODIES[name]).encode()
    asked = Asked(form, first, body, form.decode(body, first))
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(asked.kept()), type=StoredRequest)
    again = asked_again(kept, FORMS)
    assert (kept.name, kept.answer_id, kept.created) == (name, ID, CREATED)
    assert told(again.call) == told(asked.call)
    assert again.call.requests == asked.call.requests
    assert again.call.priority == asked.call.priority


def test_a_form_that_only_another_version_has_is_no_defect_of_ours() -> None:
    with pytest.raises(EngineFailed, match=r"form 'infermatic\.speech'"):
        asked_again(StoredRequest("infermatic.speech", {}, b"{}", ID, CREATED), FORMS)


def test_what_the_engine_refuses_is_told_in_the_words_of_the_request_however_often() -> None:
    body = json.dumps({"prompt": "Hi", "chat_history": []}).encode()
    call = FORMS["scale.deployment_chat"].decode(body, occasion(deployment="echo"))
    error = BadRequest("Odd", "messages")
    for _ in range(2):
        assert call.as_sent(error) is error
        assert error.parameter == "chat_history"


@given(answers(InfermaticChat()))
def test_machines_that_are_told_the_same_say_the_same(events: list[Event]) -> None:
    one, other = (InfermaticChat().call(stream=True).machine for _ in range(2))
    for event in events:
        assert list(one.feed(event)) == list(other.feed(event))
    assert one.collected() == other.collected()
