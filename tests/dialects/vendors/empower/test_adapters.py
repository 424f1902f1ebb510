"""Requests to register adapters."""

import json
from typing import Any

import pytest

from dragoman.core.adapters import Adapter, AdapterSource, AdapterSpec, RegisteredAdapter
from dragoman.core.errors import (
    BadRequest,
    ModelNotFound,
)
from dragoman.core.models import ServedModel
from dragoman.dialects.vendors.empower import codec
from tests.support.dialects.empower_requests import rendered

ADAPTER: dict[str, Any] = {"model_name": "acme/lora", "model_source": "HF_HUB"}


@pytest.mark.parametrize("source", ["HF_HUB", "LOCAL"])
def test_an_adapter_has_a_name_and_a_source(source: str) -> None:
    wanted = codec.decode_adapter(json.dumps(ADAPTER | {"model_source": source, "hf_token": None}).encode())
    kind: Any = {"HF_HUB": "hub", "LOCAL": "local"}[source]
    assert wanted == codec.AdapterRegistration(AdapterSpec("acme/lora", AdapterSource(kind, "acme/lora")), None)


def test_an_adapter_may_have_another_name_a_revision_and_a_base() -> None:
    fields = {"name": "lora", "hf_revision": "v2", "hf_token": "hf_secret", "base_model_name": "m"}
    wanted = codec.decode_adapter(json.dumps(ADAPTER | fields).encode())
    spec = AdapterSpec("lora", AdapterSource("hub", "acme/lora", "v2"), "m")
    assert wanted == codec.AdapterRegistration(spec, "hf_secret")


def test_the_main_branch_is_the_default_revision() -> None:
    named = codec.decode_adapter(json.dumps(ADAPTER | {"hf_revision": "main"}).encode())
    assert named == codec.decode_adapter(json.dumps(ADAPTER).encode())
    body = json.loads(
        codec.adapter_body(RegisteredAdapter(Adapter(name="lora", source=named.spec.source, created_at=17), "m"))
    )
    assert body["active_deployment"]["hf_revision"] == "main"


@pytest.mark.parametrize(
    ("field", "wrong", "message", "code"),
    [
        ("model_name", None, "Missing required parameter: 'model_name'", "missing_required_parameter"),
        ("model_name", 5, "'model_name' must be a string", "invalid_type"),
        ("model_source", None, "Missing required parameter: 'model_source'", "missing_required_parameter"),
        ("model_source", 5, "'model_source' must be a string", "invalid_type"),
        ("model_source", "hf_hub", "'model_source' must be one of HF_HUB, LOCAL, got 'hf_hub'", "invalid_value"),
        ("hf_revision", 5, "'hf_revision' must be a string", "invalid_type"),
        ("hf_token", ["secret"], "'hf_token' must be a string", "invalid_type"),
        ("name", 5, "'name' must be a string", "invalid_type"),
    ],
)
def test_an_adapter_of_another_shape_is_rejected(field: str, wrong: object, message: str, code: str) -> None:
    with pytest.raises(BadRequest) as caught:
        codec.decode_adapter(json.dumps(ADAPTER | {field: wrong}).encode())
    assert rendered(caught.value) == (
        400,
        {"message": message, "type": "invalid_request_error", "param": field, "code": code},
    )


def test_a_base_model_is_listed_under_each_of_its_names() -> None:
    model = ServedModel(id="llama", aliases=("meta/llama",), context_length=8192)
    for name in ("llama", "meta/llama"):
        assert json.loads(codec.base_model(name, model, 1706652711)) == {
            "active_deployment": {
                "created_at": 1706652711,
                "creator": {
                    "actor_type": "USER",
                    "api_key": {"name": ""},
                    "user": {"email": "", "first_name": "", "last_name": "", "profile_image_url": ""},
                },
                "model_name": "llama",
                "model_source": "HF_HUB",
            },
            "name": name,
            "unit_price": 0,
        }
    with pytest.raises(ModelNotFound):
        codec.base_model("Llama", None, 1706652711)
