"""Records of adapters without files."""

from dragoman.core.adapters import Adapter, AdapterSource
from dragoman.engines.llama.wire.adapter_registry import AdapterRecord


def adapter_record(name: str) -> AdapterRecord:
    """A record with every field set."""
    adapter = Adapter(
        name=name,
        source=AdapterSource("hub", "acme/poet", "v2"),
        created_at=17,
        aliases=("it",),
        scale=0.5,
        creator="me",
        digest="ab",
    )
    return AdapterRecord(adapter, "/x.gguf")
