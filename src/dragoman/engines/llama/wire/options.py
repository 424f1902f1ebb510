"""What an engine process is told when it is started."""

import msgspec


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Passed as JSON in the process's argument."""

    model_path: str
    socket_path: str
    context_cells: int
    parallel: int
    threads: int
    step_tokens: int
    saved_tokens: int
    """Tokens of finished sequences kept at most in main memory."""
    max_waiting: int
    max_adapters: int
    """LoRA adapters that may be loaded at once."""
    unload_idle_seconds: float | None = None
    """End with status 0 when nobody asked for anything for so long; None: never."""
    reproducible: bool = False
    library: str | None = None
    """A packaged build's name or the path of another one; None: what computes the model fastest."""
    chat_template: str | None = None
    """None: the one in the model file."""
