"""LoRA adapters in memory, which llama.cpp adds to a model's matrices while it computes a batch."""

from ctypes import c_float, c_void_p
from pathlib import Path

from dragoman.engines.llama.native.model import Model, ModelError, logged_reason
from dragoman.engines.llama.weights.adapter_tensors import check_adapter_tensors
from dragoman.engines.llama.weights.gguf_files import ModelSourceError


class LoraAdapter:
    """One loaded adapter file. `close` frees it; before that, every context that uses it must be set to another one."""

    def __init__(self, model: Model, path: Path, scale: float) -> None:
        """Load the file. Raises ModelError, with llama.cpp's own reason if it has one, when it does not fit the model.

        A matrix W of the model becomes W + scale * alpha / rank * B A; the file has alpha, A and B.
        """
        try:
            check_adapter_tensors(path, model.path)
        except (ModelSourceError, OSError) as error:
            raise ModelError(f"{path.name} cannot be used as an adapter: {error}") from error
        self._library = model.library
        self._library.recent_log.clear()
        handle = self._library.llama_adapter_lora_init(model.handle, str(path).encode())
        if not handle:
            raise ModelError(f"{path.name} cannot be used as an adapter: {logged_reason(self._library)}")
        self._handle: int = handle
        self.scale = scale
        self.arguments = ((c_void_p * 1)(handle), 1, (c_float * 1)(scale))
        """For llama_set_adapters_lora, after the context."""

    def close(self) -> None:
        """Free the adapter."""
        self._library.llama_adapter_lora_free(self._handle)
