"""The control socket, over a server that only notes what it is told."""

import asyncio
import socket
from pathlib import Path

import pytest

from dragoman.server.control import (
    ControlledServer,
    ModelAction,
    ModelChangeRefused,
    control_socket,
    request_model_change,
)
from dragoman.server.reloading import Reloader
from dragoman.server.settings import Settings


async def test_models_are_loaded_and_unloaded_by_name(tmp_path: Path) -> None:
    changes: list[tuple[ModelAction, str]] = []

    def change(action: ModelAction, model: str) -> None:
        if model == "fixed":
            raise ModelChangeRefused("fixed stays loaded")
        changes.append((action, model))

    async def apply(_settings: Settings, _generation: int) -> list[str]:
        return []

    with socket.socket() as listener:
        server = ControlledServer(Reloader(Settings(), Settings, apply), listener, lambda: None, change)
        async with control_socket(tmp_path, server):
            await asyncio.to_thread(request_model_change, tmp_path, "load", "assistant")
            await asyncio.to_thread(request_model_change, tmp_path, "unload", "assistant")
            with pytest.raises(ModelChangeRefused, match="fixed stays loaded"):
                await asyncio.to_thread(request_model_change, tmp_path, "unload", "fixed")
    assert changes == [("load", "assistant"), ("unload", "assistant")]
    with pytest.raises(ModelChangeRefused, match="does not answer"):
        request_model_change(tmp_path / "nothing", "load", "assistant")
