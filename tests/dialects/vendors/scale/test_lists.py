"""The lists of models and deployments, over HTTP."""

import json

import httpx
import pytest

from tests.support.dialects.scale_app import (
    detail_of,
)


async def test_the_models_are_listed(client: httpx.AsyncClient) -> None:
    listing = (await client.get("/v4/models")).json()
    assert list(listing) == ["current_page", "items", "items_per_page", "total_item_count"]
    [item] = listing["items"]
    assert (listing["current_page"], listing["items_per_page"], listing["total_item_count"]) == (1, 100, 1)
    assert item["request_schema"]["$ref"].endswith("DeploymentChatRequest")
    assert "completions" in json.dumps(item["response_schema"])
    assert {name: value for name, value in item.items() if not name.endswith("_schema")} == {
        "id": "echo",
        "account_id": "dragoman",
        "created_at": "2024-01-01T00:00:00Z",
        "created_by_identity_type": "user",
        "created_by_user_id": "dragoman",
        "deployment_count": 1,
        "model_type": "CHAT_COMPLETION",
        "name": "echo",
        "supports_multi_turn": True,
        "model_vendor": "LLMENGINE",
    }


@pytest.mark.parametrize("name", ["echo", "acme/parrot", "acme%2Fparrot"])
async def test_one_model_is_listed_under_each_of_its_names(client: httpx.AsyncClient, name: str) -> None:
    item = (await client.get(f"/v4/models/{name}")).json()
    assert (item["id"], item["name"]) == (name.replace("%2F", "/"), "echo")


@pytest.mark.parametrize("name", ["foo", "acme/foo", "echo/deployments"])
async def test_a_model_that_does_not_exist_is_not_found(client: httpx.AsyncClient, name: str) -> None:
    assert detail_of(await client.get(f"/v4/models/{name}"), 404) == f"Model '{name}' not found"


async def test_the_deployments_are_listed(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v4/model-deployments")).json() == {
        "current_page": 1,
        "items": [
            {
                "id": "echo",
                "account_id": "dragoman",
                "created_at": "2024-01-01T00:00:00Z",
                "created_by_identity_type": "user",
                "created_by_user_id": "dragoman",
                "name": "echo",
                "status": "READY",
                "model_instance_id": "echo",
            }
        ],
        "items_per_page": 100,
        "total_item_count": 1,
    }


@pytest.mark.parametrize("path", ["/v4/models", "/v4/model-deployments"])
async def test_lists_have_pages(client: httpx.AsyncClient, path: str) -> None:
    ignored = {"sort_by": "name:asc", "view": "Deployments", "account_id": "x"}
    listing = (await client.get(path, params={"page": "2", "limit": "10000", **ignored})).json()
    assert (listing["items"], listing["current_page"], listing["items_per_page"]) == ([], 2, 10000)
    assert listing["total_item_count"] == 1


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({"model_type": "CHAT_COMPLETION"}, 1),
        ({"model_type": "COMPLETION"}, 0),
        ({"model_group_id": "group"}, 0),
        ({"sort_by": "name:asc", "view": "Deployments"}, 1),
    ],
)
async def test_models_are_filtered(client: httpx.AsyncClient, query: dict[str, str], count: int) -> None:
    listing = (await client.get("/v4/models", params=query)).json()
    assert (len(listing["items"]), listing["total_item_count"]) == (count, count)


@pytest.mark.parametrize("path", ["/v4/models", "/v4/model-deployments"])
@pytest.mark.parametrize(
    ("query", "message", "kind"),
    [
        ({"page": "0"}, "Input should be greater than or equal to 1", "greater_than_equal"),
        ({"page": "x"}, "Input should be a valid integer", "int_type"),
        ({"page": "9" * 30}, "Input should be a valid integer", "int_type"),
        ({"page": "²"}, "Input should be a valid integer", "int_type"),
        ({"limit": "0"}, "Input should be between 1 and 10000", "value_error"),
        ({"limit": "-1"}, "Input should be between 1 and 10000", "value_error"),
        ({"limit": "10001"}, "Input should be between 1 and 10000", "value_error"),
        ({"limit": ""}, "Input should be a valid integer", "int_type"),
    ],
)
async def test_a_page_out_of_range_is_reported_with_its_path(
    client: httpx.AsyncClient, path: str, query: dict[str, str], message: str, kind: str
) -> None:
    [name] = query
    expected = [{"loc": ["query", name], "msg": message, "type": kind}]
    assert detail_of(await client.get(path, params=query), 422) == expected
