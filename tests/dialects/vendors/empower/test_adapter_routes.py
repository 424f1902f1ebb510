"""The routes of adapters, over HTTP."""

import time
from pathlib import Path
from typing import Any

import httpx

from tests.support.dialects.empower_app import (
    CHAT,
    HELLO,
    KEY,
    LOCAL_ADAPTER,
    LORA,
    client_of,
    error_of,
    gateway_of,
    refused,
    texts,
)

ADAPTER = {"model_name": "acme/lora", "model_source": "HF_HUB"}


async def test_a_registered_adapter_has_the_documented_shape(folder: Path) -> None:
    before = int(time.time())
    async with client_of(gateway_of(KEY, folder=folder)) as client:
        client.headers["authorization"] = f"Bearer {KEY}"
        response = await client.post(LORA, json=LOCAL_ADAPTER | {"name": "acme/blackbeard", "hf_token": "hf_secret"})
        assert (await client.delete(f"{LORA}/acme/blackbeard")).content == response.content
        assert (await client.delete(f"{LORA}/acme/blackbeard")).status_code == 404
    answer = response.json()
    assert before <= answer["active_deployment"].pop("created_at") <= time.time()
    assert answer == {
        "active_deployment": {
            "base_model_name": "parrot",
            "creator": {
                "actor_type": "USER",
                "api_key": {"name": "build server"},
                "user": {"email": "", "first_name": "", "last_name": "", "profile_image_url": ""},
            },
            "hf_revision": None,
            "model_name": "pirate",
            "model_source": "LOCAL",
        },
        "name": "acme/blackbeard",
        "unit_price": 0,
    }


async def test_a_registered_adapter_is_a_model_but_no_base_model(client: httpx.AsyncClient) -> None:
    before = int(time.time())
    assert (await client.post(LORA, json=LOCAL_ADAPTER)).status_code == 200
    assert texts(await client.post(CHAT, json=HELLO | {"model": "pirate"})) == ["Hello"]
    cards = (await client.get("/empower/models")).json()["data"]
    assert [card["id"] for card in cards] == ["parrot", "second", "pirate"]
    assert before <= cards[2]["created"] <= time.time()
    response = await client.get("/empower/base-model/pirate")
    assert error_of(response, 404) == refused("Model 'pirate' not found", "model", "model_not_found")


async def test_the_same_adapter_again_is_no_error_and_another_of_its_name_is(client: httpx.AsyncClient) -> None:
    first = await client.post(LORA, json=LOCAL_ADAPTER)
    assert (await client.post(LORA, json=LOCAL_ADAPTER)).content == first.content
    for taken in ("pirate", "parrot", "acme/parrot"):
        response = await client.post(LORA, json=ADAPTER | {"name": taken})
        message = f"A model named '{taken}' already exists"
        assert error_of(response, 400) == refused(message, "name", "name_taken")


async def test_an_adapter_that_does_not_exist_returns_400(client: httpx.AsyncClient) -> None:
    response = await client.post(LORA, json=LOCAL_ADAPTER | {"model_name": "../pirate"})
    message = "Model '../pirate' is not in the adapter folder"
    assert error_of(response, 400) == refused(message, "model_name", "model_not_available")
    response = await client.post(LORA, json=ADAPTER | {"hf_token": "hf_secret"})
    message = "Model 'acme/lora' is not in the local store and downloads are disabled"
    assert error_of(response, 400) == refused(message, "model_name", "model_not_available")


async def test_an_unknown_adapter_cannot_be_removed(client: httpx.AsyncClient) -> None:
    response = await client.delete(f"{LORA}/acme/other")
    assert error_of(response, 404) == refused("Model 'acme/other' not found", "model", "model_not_found")


async def test_the_shape_of_an_adapter_is_checked_as_well(client: httpx.AsyncClient) -> None:
    response = await client.post(LORA, json={"model_name": "acme/lora"})
    assert error_of(response, 400) == refused(
        "Missing required parameter: 'model_source'", "model_source", "missing_required_parameter"
    )


async def test_an_adapter_belongs_to_the_key_that_registered_it_and_to_its_group(folder: Path) -> None:
    mate, stranger = "sk-mate-0123456789", "sk-stranger-0123456789"
    gateway = gateway_of(KEY, mate, stranger, folder=folder, groups={KEY: "team", mate: "team"})
    async with client_of(gateway) as client:

        async def status(method: str, path: str, key: str, body: Any = None) -> int:
            headers = {"authorization": f"Bearer {key}"}
            return (await client.request(method, path, json=body, headers=headers)).status_code

        assert await status("POST", LORA, KEY, LOCAL_ADAPTER) == 200
        for key, expected in ((KEY, 200), (mate, 200), (stranger, 404)):
            assert await status("POST", CHAT, key, HELLO | {"model": "pirate"}) == expected
        assert await status("DELETE", f"{LORA}/pirate", stranger) == 404
        assert await status("DELETE", f"{LORA}/pirate", mate) == 200


async def test_a_server_may_let_no_client_register_adapters(folder: Path) -> None:
    async with client_of(gateway_of(KEY, folder=folder, allow_adapter_registration=False)) as client:
        response = await client.post(LORA, json=LOCAL_ADAPTER, headers={"authorization": f"Bearer {KEY}"})
    message = "This server's operator registers its adapters; clients may not"
    assert error_of(response, 403) == refused(message, None, "permission_denied", "permission_error")
