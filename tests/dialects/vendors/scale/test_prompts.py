"""Templates, conversations and texts of requests."""

from collections.abc import Callable
from typing import Any

import pytest

from dragoman.core.request import ChatPrompt, TextPrompt
from dragoman.dialects.http.codec import DecodedRequest
from tests.support.dialects.scale_requests import chat, deployment_chat, deployment_text, details, messages, text


def prompt_of(call: DecodedRequest) -> ChatPrompt:
    prompt = call.requests[0].prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt


@pytest.mark.parametrize("route", [deployment_chat, chat])
def test_a_template_reaches_the_engine(route: Callable[..., DecodedRequest]) -> None:
    assert prompt_of(route()).template is None
    assert prompt_of(route(chat_template="{{ x }}")).template == "{{ x }}"
    [detail] = details(route, chat_template="x" * 65537)
    assert (detail["loc"], detail["type"]) == (["body", "chat_template"], "too_long")
    [detail] = details(route, chat_template="é" * 65536)
    assert (detail["loc"], detail["type"]) == (["body", "chat_template"], "value_error")


def test_a_templates_variables_reach_the_engine() -> None:
    variables = {"thinking": True, "add_generation_prompt": False}
    assert prompt_of(deployment_chat(chat_template_kwargs=variables)).template_arguments == variables


@pytest.mark.parametrize("name", ["messages", "bos_token", "eos_token"])
def test_the_servers_own_variables_cannot_be_set(name: str) -> None:
    [detail] = details(deployment_chat, chat_template_kwargs={name: "x"})
    assert detail["loc"] == ["body", "chat_template_kwargs", name]


def test_a_templates_variables_are_at_most_64_kib() -> None:
    [detail] = details(deployment_chat, chat_template_kwargs={"a": "x" * 65536})
    assert detail["loc"] == ["body", "chat_template_kwargs"]


@pytest.mark.parametrize("effort", [None, "low", "medium", "high"])
def test_the_effort_of_a_conversation_reaches_the_engine(effort: str | None) -> None:
    assert prompt_of(deployment_chat(reasoning_effort=effort)).reasoning_effort == effort
    assert prompt_of(chat(model_parameters={"reasoning_effort": effort})).reasoning_effort == effort


def test_images_of_a_text_are_rejected() -> None:
    [detail] = details(text, images=[{"image_url": "https://example.com/x.png"}])
    assert detail["loc"] == ["body", "images"]


def test_what_changes_nothing_is_accepted() -> None:
    assert deployment_chat(logprobs=False, chat_template_kwargs={}).requests == deployment_chat().requests
    assert text(images=[]).requests == text().requests


def test_the_prompt_follows_the_history_as_the_users_message() -> None:
    history = [
        {"role": "system", "content": "Be brief"},
        {"content": "One"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": "T"}, {"text": "wo"}]},
    ]
    assert messages(deployment_chat(chat_history=history, prompt="Three")) == [
        ("system", "Be brief"),
        ("user", "One"),
        ("assistant", ""),
        ("user", "Two"),
        ("user", "Three"),
    ]


def test_a_text_prompt_is_raw() -> None:
    for route in (deployment_text, text):
        assert route().requests[0].prompt == TextPrompt("Once")


@pytest.mark.parametrize("role", ["tool", "developer", "", 1])
def test_another_role_is_rejected(role: object) -> None:
    [detail] = details(deployment_chat, chat_history=[{"content": "x"}, {"role": role, "content": "x"}])
    assert detail["loc"] == ["body", "chat_history", 1, "role"]
    [detail] = details(chat, messages=[{"role": role, "content": "x"}])
    assert detail["loc"] == ["body", "messages", 0, "role"]


@pytest.mark.parametrize("role", ["assistant", "system"])
def test_parts_are_for_user_messages(role: str) -> None:
    [detail] = details(deployment_chat, chat_history=[{"role": role, "content": [{"text": "x"}]}])
    assert detail == {
        "loc": ["body", "chat_history", 0, "content"],
        "msg": "Input should be a valid string",
        "type": "string_type",
    }


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://example.com/x.png", "detail": "low"}},
        {"image_url": {"url": "https://example.com/x.png"}},
        {"type": "image_data", "image_data": {"data": "AAAA", "media_type": "image/png", "type": "base64"}},
        {"image_data": {"data": "AAAA"}},
        {"type": "image_url"},
    ],
)
def test_images_are_rejected(part: dict[str, Any]) -> None:
    [detail] = details(deployment_chat, chat_history=[{"content": [{"text": "See"}, part]}])
    assert detail == {
        "loc": ["body", "chat_history", 0, "content", 1],
        "msg": "Images are not supported, the model takes text only",
        "type": "value_error",
    }
    [detail] = details(chat, messages=[{"content": [part]}])
    assert detail["loc"] == ["body", "messages", 0, "content", 0]


@pytest.mark.parametrize("history", [None, "x", {}, ["x"], [{"content": 1}], [{"role": "user"}]])
def test_a_history_of_another_shape_is_rejected(history: object) -> None:
    [detail] = details(deployment_chat, chat_history=history)
    assert detail["loc"][:2] == ["body", "chat_history"]


def test_instructions_are_the_first_system_message() -> None:
    assert messages(chat(instructions="Be brief")) == [("system", "Be brief"), ("user", "Hi")]
    assert messages(chat(instructions="")) == [("user", "Hi")]


def test_last_k_keeps_the_last_messages_and_the_instructions() -> None:
    sent = [{"content": "1"}, {"role": "assistant", "content": "2"}, {"content": "3"}]
    strategy = {"name": "last_k", "params": {"k": 2}}
    last_two = [("assistant", "2"), ("user", "3")]
    assert messages(chat(messages=sent, memory_strategy=strategy)) == last_two
    assert messages(chat(messages=sent, memory_strategy={"params": {"k": 2}})) == last_two
    assert len(messages(chat(messages=sent, memory_strategy={"params": {"k": 2**80}}))) == 3
    assert messages(chat(messages=sent, memory_strategy=strategy, instructions="0")) == [("system", "0"), *last_two]


@pytest.mark.parametrize(
    ("strategy", "place"),
    [
        ({"name": "other", "params": {"k": 1}}, ["name"]),
        ({"name": "last_k"}, ["params"]),
        ({"params": {}}, ["params", "k"]),
        ({"params": {"k": 0}}, ["params", "k"]),
        ({"params": {"k": "2"}}, ["params", "k"]),
    ],
)
def test_another_memory_strategy_is_rejected(strategy: dict[str, Any], place: list[str]) -> None:
    [detail] = details(chat, memory_strategy=strategy)
    assert detail["loc"] == ["body", "memory_strategy", *place]
