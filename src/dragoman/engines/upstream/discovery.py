"""Find out what kind of server an upstream is, and what it serves, from its list of models."""

from collections.abc import Mapping

import msgspec

from dragoman.core.limits import MAX_TOKENS
from dragoman.engines.upstream.http_client import UpstreamClient
from dragoman.engines.upstream.http_request import UpstreamAddress, UpstreamRequest
from dragoman.engines.upstream.kinds import KindName
from dragoman.engines.upstream.replies import decode_reply
from dragoman.engines.upstream.transport_errors import MISSING_ROUTE, TransportError, UpstreamStatus

MODELS_PATH = "/v1/models"

_KIND_BY_OWNER: Mapping[str, KindName] = {
    "vllm": "vllm",
    "sglang": "sglang",
    "llamacpp": "llama-server",
    "library": "ollama",
}
"""What kinds of servers write into `owned_by`."""


class _Meta(msgspec.Struct):
    n_ctx: int | None = None
    n_ctx_train: int | None = None


class _Entry(msgspec.Struct):
    id: str
    owned_by: str | None = None
    parent: str | None = None
    """Of an adapter: the model that it adapts."""
    root: str | None = None
    """Of a model: where it was loaded from."""
    tool_format: str | None = None
    """Of a dragoman."""
    max_model_len: int | None = None
    context_length: int | None = None
    meta: _Meta | None = None


class _ModelList(msgspec.Struct):
    data: list[_Entry]


class _Generation(msgspec.Struct):
    n_ctx: int | None = None


class _Properties(msgspec.Struct):
    """Of llama.cpp's server."""

    default_generation_settings: _Generation


_decode_models = msgspec.json.Decoder(_ModelList).decode
_decode_properties = msgspec.json.Decoder(_Properties).decode


class DiscoveredModel(msgspec.Struct, frozen=True):
    """A model that an upstream serves."""

    name: str
    context_length: int | None
    """Tokens of prompt and answer together; None: the upstream does not say."""
    base: str | None = None
    """None: it is a model. Otherwise it is an adapter, and this the model that it adapts."""
    root: str | None = None
    """Where the model was loaded from: names with an equal one are those of one model."""


class DeclaredModel(msgspec.Struct, frozen=True, kw_only=True):
    """What the settings say of an upstream's model."""

    name: str
    kind: KindName | None = None
    """Of the upstream. None: found by its list of models."""
    context_length: int | None = None
    """Instead of what the upstream says."""
    is_listed: bool = True
    """Whether the upstream has a list of models. Otherwise a route that is missing is none."""


class Discovered(msgspec.Struct, frozen=True):
    """What an upstream is."""

    kind: KindName
    models: tuple[DiscoveredModel, ...]

    def find(self, name: str) -> DiscoveredModel | None:
        """Return the model with this name."""
        return next((model for model in self.models if model.name == name), None)

    def adapters_of(self, name: str) -> list[str]:
        """Return the names of the adapters of a model."""
        model = self.find(name)
        if model is None:
            return []
        names = {each.name for each in self.models if each.root == model.root is not None} | {name}
        return [each.name for each in self.models if each.base in names]


class UpstreamUnreachable(Exception):
    """A server cannot be asked what it is. The message is for people."""


async def discover_server(url: str) -> Discovered:
    """Ask a server without a key what it is and serves. Raises UpstreamUnreachable."""
    try:
        client = UpstreamClient(UpstreamAddress.parse(url))
    except ValueError as error:
        raise UpstreamUnreachable(str(error)) from None
    try:
        found = await discover(client)
    except TransportError as error:
        raise UpstreamUnreachable(f"the server does not list its models: {error}") from None
    except msgspec.MsgspecError:
        raise UpstreamUnreachable("the server's list of models is malformed") from None
    finally:
        client.close()
    if not found.models:
        raise UpstreamUnreachable("the server has no models")
    return found


async def discover(client: UpstreamClient, declared: DeclaredModel | None = None) -> Discovered:
    """Ask for the list of models, or believe the settings where there is none.

    Raises TransportError, and MsgspecError for a reply that is no such list.
    """
    try:
        reply = await client.fetch(UpstreamRequest(path=MODELS_PATH))
    except UpstreamStatus as failure:
        if declared is None or declared.is_listed or failure.status not in MISSING_ROUTE:
            raise
        return Discovered(declared.kind or "openai", (DiscoveredModel(declared.name, declared.context_length),))
    entries = decode_reply(_decode_models, reply).data
    kinds = {_kind(entry) for entry in entries}
    kind: KindName = kinds.pop() if len(kinds) == 1 else "openai"
    served_length = await _llama_server_context(client) if kind == "llama-server" else None
    known = {} if declared is None else {declared.name: declared.context_length}
    return Discovered(
        kind,
        tuple(
            DiscoveredModel(
                entry.id, known.get(entry.id) or served_length or _context_length(entry), entry.parent, entry.root
            )
            for entry in entries
        ),
    )


def _kind(entry: _Entry) -> KindName:
    return "dragoman" if entry.tool_format is not None else _KIND_BY_OWNER.get(entry.owned_by or "", "openai")


def _context_length(entry: _Entry) -> int | None:
    meta = entry.meta or _Meta()
    lengths = (entry.max_model_len, entry.context_length, meta.n_ctx, meta.n_ctx_train)
    return next((length for length in lengths if _is_length(length)), None)


def _is_length(length: int | None) -> bool:
    return length is not None and 0 < length <= MAX_TOKENS


async def _llama_server_context(client: UpstreamClient) -> int | None:
    """Return the context of a slot. The list of models has that of the training only."""
    try:
        reply = await client.fetch(UpstreamRequest(path="/props"))
        length = decode_reply(_decode_properties, reply).default_generation_settings.n_ctx
        return length if _is_length(length) else None
    except (TransportError, msgspec.MsgspecError):
        return None
