"""Adapters are found in the allowed places, and nowhere else."""

import json
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import gguf
import pytest

from dragoman.core.adapters import AdapterSource
from dragoman.core.errors import AdapterMissing, BadRequest
from dragoman.engines.base import AdapterFile
from dragoman.engines.llama.weights.adapter_files import LocalAdapterStore, read_adapter, resolve_adapter
from dragoman.engines.llama.weights.gguf_files import ModelSourceError
from dragoman.engines.llama.weights.sources import bundled
from tests.support.hub import UNREACHABLE, HubHandler, run_python_with_hub, running_hub
from tests.support.tiny_llama import random_lora_updates, write_adapter

CONVERT = r"is a PEFT adapter and not GGUF; convert it with llama\.cpp's convert_lora_to_gguf\.py"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An adapter folder beside a file that clients must not reach."""
    folder = tmp_path / "adapters"
    folder.mkdir()
    write_adapter(folder / "pirate.gguf", random_lora_updates(1), base="acme/tiny")
    (folder / "poet").mkdir()
    write_adapter(folder / "poet/lora.gguf", {}, architecture="qwen2")
    write_adapter(tmp_path / "secret.gguf", {})
    return folder


async def find(folder: Path | None, name: str) -> AdapterFile:
    return await LocalAdapterStore(folder, downloads=False).find(AdapterSource("local", name), None)


@pytest.mark.parametrize("name", ["pirate.gguf", "pirate", "./pirate"])
async def test_a_file_of_the_folder_is_found_with_its_metadata(folder: Path, name: str) -> None:
    assert await find(folder, name) == AdapterFile(folder / "pirate.gguf", "llama", ("acme/tiny",))


@pytest.mark.parametrize("name", ["poet", "poet/lora.gguf", "poet/lora", "poet/"])
async def test_a_directory_of_one_adapter_resolves_to_it(folder: Path, name: str) -> None:
    assert await find(folder, name) == AdapterFile(folder / "poet/lora.gguf", "qwen2", ())


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: "../secret.gguf",
        lambda folder: "../secret",
        lambda folder: "poet/../../secret.gguf",
        lambda folder: "poet/../pirate.gguf",
        lambda folder: str(folder.parent / "secret.gguf"),
        lambda folder: "..",
        lambda folder: "/",
        lambda folder: "~/secret.gguf",
        lambda folder: "absent.gguf",
        lambda folder: "a\0b",
        lambda folder: "x" * 5000,
        lambda folder: "out",
        lambda folder: "out/secret.gguf",
        lambda folder: "link.gguf",
        lambda folder: "linked",
        lambda folder: "loop.gguf",
    ],
)
async def test_no_path_escapes_the_folder(folder: Path, make: Callable[[Path], str]) -> None:
    (folder / "out").symlink_to(folder.parent)
    (folder / "link.gguf").symlink_to(folder.parent / "secret.gguf")
    (folder / "linked").mkdir()
    (folder / "linked/lora.gguf").symlink_to(folder.parent / "secret.gguf")
    (folder / "loop.gguf").symlink_to("loop.gguf")
    name = make(folder)
    with pytest.raises(AdapterMissing) as caught:
        await find(folder, name)
    assert caught.value.message == f"Model '{name}' is not in the adapter folder"


async def test_a_link_within_the_folder_is_followed(folder: Path) -> None:
    (folder / "alias.gguf").symlink_to("pirate.gguf")
    assert (await find(folder, "alias")).path == folder / "pirate.gguf"


async def test_the_folder_itself_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").symlink_to(folder)
    assert (await find(tmp_path / "elsewhere", "pirate")).path == folder / "pirate.gguf"


async def test_without_a_folder_nothing_of_this_machine_is_taken(folder: Path) -> None:
    for absent in (None, folder / "absent"):
        with pytest.raises(AdapterMissing):
            await find(absent, "pirate")


async def test_a_directory_of_several_adapters_asks_for_one(folder: Path) -> None:
    write_adapter(folder / "poet/other.gguf", {})
    with pytest.raises(BadRequest, match=r"poet holds 2 \.gguf files; name one as poet/FILE"):
        await find(folder, "poet")


@pytest.mark.parametrize("files", [["adapter_model.safetensors", "adapter_config.json"], ["adapter_model.bin"]])
async def test_a_peft_adapter_is_answered_with_how_to_convert_it(folder: Path, files: list[str]) -> None:
    (folder / "peft").mkdir()
    for file in files:
        (folder / "peft" / file).write_bytes(b"{}")
    with pytest.raises(BadRequest, match=CONVERT):
        await find(folder, "peft")
    with pytest.raises(ModelSourceError, match=CONVERT):
        resolve_adapter(str(folder / "peft"), progress=False)


async def test_a_safetensors_file_is_answered_with_how_to_convert_it(folder: Path) -> None:
    (folder / "lora.safetensors").write_bytes(b"{}")
    with pytest.raises(BadRequest, match=CONVERT):
        await find(folder, "lora.safetensors")


def test_a_file_that_is_no_adapter_is_reported_by_its_name_alone(tmp_path: Path) -> None:
    text, model = tmp_path / "text.gguf", bundled().path
    text.write_bytes(b"Once upon a time, there was a file")
    other = write_adapter(tmp_path / "control.gguf", {}, kind="imatrix")
    for path, problem in (
        (text, "text.gguf is not a GGUF file of version 2 or 3"),
        (model, f"{model.name} is no LoRA adapter: its general.type is 'model'"),
        (other, "control.gguf is no LoRA adapter: its general.type is 'imatrix'"),
        (tmp_path / "absent.gguf", "absent.gguf cannot be read: No such file or directory"),
    ):
        with pytest.raises(ModelSourceError) as caught:
            read_adapter(path)
        assert str(caught.value) == problem


def test_an_adapter_file_that_was_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole = write_adapter(tmp_path / "whole.gguf", {}).read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in range(len(whole) - gguf.GGUF_DEFAULT_ALIGNMENT):  # what may miss is padding
        cut.write_bytes(whole[:length])
        with pytest.raises(ModelSourceError, match=r"^cut\.gguf is no"):
            read_adapter(cut)


def test_an_adapter_of_the_settings_is_a_file(folder: Path) -> None:
    source, file = resolve_adapter(str(folder / "pirate.gguf"), progress=False)
    assert (source, file.path) == (AdapterSource("local", "pirate.gguf"), folder / "pirate.gguf")
    with pytest.raises(ModelSourceError, match=r"^there is no adapter file .*absent\.gguf$"):
        resolve_adapter(str(folder / "absent.gguf"), progress=False)


FIND_PROGRAM = """
import asyncio, json, sys
from pathlib import Path
from dragoman.core.adapters import AdapterSource
from dragoman.core.errors import BadRequest
from dragoman.engines.llama.weights.adapter_files import LocalAdapterStore

name, revision, downloads, token = sys.argv[1], sys.argv[2] or None, sys.argv[3] == "True", sys.argv[4] or None
store = LocalAdapterStore(None, downloads=downloads)
try:
    file = asyncio.run(store.find(AdapterSource("hub", name, revision), token))
    print(json.dumps([str(file.path), ""]))
except BadRequest as error:
    print(json.dumps(["", error.message]))
"""


@pytest.fixture
def hub_cache(tmp_path: Path) -> Path:
    """A Hugging Face cache with an adapter in two versions, and one that was not converted."""
    home = tmp_path / "hf"
    for commit, name in (("a" * 40, "main"), ("b" * 40, "v2")):
        snapshot = home / "hub/models--acme--poet/snapshots" / commit
        snapshot.mkdir(parents=True)
        write_adapter(snapshot / "poet.gguf", {})
        refs = home / "hub/models--acme--poet/refs"
        refs.mkdir(exist_ok=True)
        (refs / name).write_text(commit)
    peft = home / "hub/models--acme--peft"
    (peft / "snapshots" / ("c" * 40)).mkdir(parents=True)
    (peft / "snapshots" / ("c" * 40) / "adapter_config.json").write_text("{}")
    (peft / "refs").mkdir()
    (peft / "refs/main").write_text("c" * 40)
    return home


@pytest.mark.parametrize(
    ("name", "revision", "commit", "error_prefix"),
    [
        ("acme/poet", "", "a", ""),
        ("acme/poet:poet.gguf", "v2", "b", ""),
        ("acme/poet", "b" * 40, "b", ""),
        ("acme/poet", "v3", "", "Model 'acme/poet' is not in the local store and downloads are disabled"),
        ("acme/other", "", "", "Model 'acme/other' is not in the local store and downloads are disabled"),
        ("acme/peft", "", "", "acme/peft is a PEFT adapter"),
        ("poet", "", "", "'poet' is no repository; give owner/name"),
        ("../../etc/passwd", "", "", "'../../etc/passwd' is no repository"),
    ],
)
def test_adapters_of_the_hub_come_from_its_cache_in_the_revision_asked_for(
    hub_cache: Path, name: str, revision: str, commit: str, error_prefix: str
) -> None:
    path, error_message = find_in_process(UNREACHABLE, hub_cache, name, revision)
    assert error_message.startswith(error_prefix)
    assert bool(error_message) == bool(error_prefix)
    assert (f"/{commit * 40}/" in path) == bool(commit)


class Hub(HubHandler):
    """A hub with one gated adapter."""

    adapter: ClassVar[bytes]
    keys_shown: ClassVar[list[str | None]] = []

    def respond(self) -> None:
        key = self.headers["authorization"]
        self.keys_shown.append(key)
        if key != "Bearer hf_secret":
            self.send_refusal(401, "GatedRepo")
        elif self.path == "/api/models/acme/gated/revision/v2":
            self.send_listing("acme/gated", ["gated.gguf"])
        else:
            assert self.path == "/acme/gated/resolve/v2/gated.gguf"
            self.send_file("acme/gated", "gated.gguf", self.adapter)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    Hub.adapter = write_adapter(tmp_path / "gated.gguf", {}).read_bytes()
    Hub.keys_shown.clear()
    with running_hub(Hub) as url:
        yield url


def test_a_download_shows_the_hub_the_clients_token_and_keeps_it_nowhere(hub: str, tmp_path: Path) -> None:
    path, error_message = find_in_process(hub, tmp_path / "hf", "acme/gated", "v2", downloads=True, token="hf_secret")
    assert (Path(path).read_bytes(), error_message) == (Hub.adapter, "")
    assert "Bearer hf_secret" in Hub.keys_shown
    for file in (tmp_path / "hf").rglob("*"):
        assert not file.is_file() or b"hf_secret" not in file.read_bytes()


def test_a_download_without_a_token_does_not_use_the_operators(hub: str, tmp_path: Path) -> None:
    _, error_message = find_in_process(hub, tmp_path / "hf", "acme/gated", "v2", downloads=True, HF_TOKEN="hf_secret")
    assert error_message.endswith("is gated: accept its terms on its page and set hf_token to your token")
    assert set(Hub.keys_shown) == {None}


class PublicHub(HubHandler):
    """A hub with adapters of several sizes: one is larger than it says, one of unsaid size, one is private."""

    adapter: ClassVar[bytes]
    sent: ClassVar[list[str]] = []
    """The repositories whose files were sent."""

    def respond(self) -> None:
        repository = "/".join(self.path.removeprefix("/api/models").split("/")[1:3])
        if repository == "acme/private" and self.headers["authorization"] != "Bearer hf_secret":
            self.send_refusal(401, "RepoNotFound")
        elif self.path.startswith("/api/models/"):
            self.send_listing(repository, ["lora.gguf"])
        elif "/resolve/" not in self.path:
            self.send_refusal(404, "EntryNotFound")
        else:
            is_large = repository == "acme/large" or (repository == "acme/longer" and self.command == "GET")
            if self.command == "GET":
                self.sent.append(repository)
            content = self.adapter + bytes(10_000) * is_large
            self.send_file(repository, "lora.gguf", content, with_size=repository != "acme/unsized")


OWNERS_PROGRAM = """
import asyncio, json, sys
from pathlib import Path
from dragoman.core.adapters import AdapterSource
from dragoman.core.errors import BadRequest
from dragoman.engines.llama.weights.adapter_files import LocalAdapterStore

folder = Path(sys.argv[1])
store = LocalAdapterStore(None, downloads=True, download_dir=folder, max_bytes=5000)

async def find(owner, name, token=None, registered=()):
    sources = [AdapterSource("hub", each) for each in registered]
    try:
        await store.find(AdapterSource("hub", name), token, owner=owner, registered=sources)
        error = ""
    except BadRequest as refusal:
        error = refusal.message
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return error, sorted(path.stat().st_size for path in files)

async def run():
    print(json.dumps([
        await find("account 1", "acme/large"),
        await find("account 1", "acme/longer"),
        await find("account 1", "acme/unsized"),
        await find("account 1", "acme/private", "hf_secret"),
        await find("account 2", "acme/private"),
        await find("account 1", "acme/small", registered=["acme/private"]),
        await find("account 1", "acme/small", registered=["acme/private", "acme/small"]),
        await find("account 1", "acme/other"),
    ]))

asyncio.run(run())
"""


def test_a_clients_download_is_bounded_and_its_own_and_deleted_after_use(tmp_path: Path) -> None:
    # In a process of its own: the client of the hub reads the environment on import. All at once: that takes a second.
    PublicHub.adapter = write_adapter(tmp_path / "lora.gguf", {}).read_bytes()
    PublicHub.sent.clear()
    with running_hub(PublicHub) as url:
        found = run_python_with_hub(url, tmp_path / "hf", OWNERS_PROGRAM, str(tmp_path / "downloads"))
    size = len(PublicHub.adapter)
    [large, longer, unsized, own, others, second, again, third] = [
        (error, [each for each in sizes if each >= size]) for error, sizes in json.loads(found.stdout)
    ]
    limit = r"has at least \d+ bytes, and adapters may have 5000 \(max_adapter_bytes\)"
    assert re.fullmatch(f"acme/large {limit}", large[0])
    assert re.fullmatch(f"lora.gguf {limit}", longer[0])
    assert unsized[0] == "the hub does not say how large acme/unsized is"
    assert large[1] == longer[1] == unsized[1] == []
    assert own == ("", [size])
    assert others[0].startswith("there is no repository acme/private")
    assert second == ("", [size, size])
    assert again == ("", [size, size])
    assert third == ("", [size]), "what no registered adapter is made from is deleted"
    assert PublicHub.sent == ["acme/longer", "acme/private", "acme/small", "acme/other"]


async def test_an_adapter_that_is_too_large_is_refused_from_the_folder_too(folder: Path) -> None:
    size = (folder / "pirate.gguf").stat().st_size
    await LocalAdapterStore(folder, downloads=False, max_bytes=size).find(AdapterSource("local", "pirate"), None)
    with pytest.raises(BadRequest, match="max_adapter_bytes"):
        await LocalAdapterStore(folder, downloads=False, max_bytes=size - 1).find(
            AdapterSource("local", "pirate"), None
        )


@pytest.mark.parametrize(("kind", "count"), [(10, 2**62), (4, 2**64 - 1)])
def test_metadata_that_claims_more_than_a_file_can_hold_is_refused(tmp_path: Path, kind: int, count: int) -> None:
    path = tmp_path / "claims.gguf"
    key = b"general.type"
    entry = struct.pack("<Q", len(key)) + key + struct.pack("<IIQ", 9, kind, count)
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, 2) + entry)
    with pytest.raises(ModelSourceError, match=r"^claims\.gguf is no"):
        read_adapter(path)


def test_metadata_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    key, text = b"general.name", bytes(2**20)
    entry = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(text)) + text
    path = tmp_path / "long.gguf"
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, 64) + entry * 40)
    with pytest.raises(ModelSourceError, match="of metadata"):
        read_adapter(path)


def find_in_process(
    endpoint: str,
    cache: Path,
    name: str,
    revision: str,
    *,
    downloads: bool = False,
    token: str = "",
    **environment: str,
) -> tuple[str, str]:
    """Search with a store in another process. Returns the path and the error message."""
    process = run_python_with_hub(endpoint, cache, FIND_PROGRAM, name, revision, str(downloads), token, **environment)
    assert "hf_secret" not in process.stdout + process.stderr
    path, error_message = json.loads(process.stdout)
    return path, error_message
