"""The entry point of the engine process: `python -m dragoman.engines.llama.process OPTIONS`.

It prints `ready` on standard output when requests can arrive, and heartbeats unless its work is stuck. If the model
cannot be served, it prints one line of explanation and ends with status 2. It ends when its parent does.
"""

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path

from dragoman.core import logs
from dragoman.core.child_process import UNLOAD_LINE, end_with_parent, send_heartbeats_from_thread
from dragoman.core.process_options import read_options
from dragoman.engines.llama.native.backend import SPARE_SEQUENCE_IDS, Backend, DecodeError
from dragoman.engines.llama.native.image_projector import ImageProjector
from dragoman.engines.llama.native.libraries.binding import ContextOptions, LibraryError
from dragoman.engines.llama.native.libraries.builds import LLAMA_CPP
from dragoman.engines.llama.native.loading import (
    library_files,
    load_embedding_model,
    load_model,
    open_backend,
    open_embedding_context,
)
from dragoman.engines.llama.native.model import Model, ModelError
from dragoman.engines.llama.native.parallel_contexts import ParallelContexts
from dragoman.engines.llama.native.resident_memory import release_zeros
from dragoman.engines.llama.process.served_adapters import AdapterManager
from dragoman.engines.llama.process.server import EngineServer
from dragoman.engines.llama.weights.digests import DigestComputation
from dragoman.engines.llama.wire.adapter_registry import registry_path
from dragoman.engines.llama.wire.options import EngineOptions, max_batch_tokens

_log = logs.get_logger(__name__)

_TOKENIZER_STACK_BYTES = 64 * 2**20
"""llama.cpp splits text with recursive regular expressions; a hostile text would overflow a stack of the usual size."""


def main() -> int:
    """Load the model, serve, and return the process's exit status."""
    end_with_parent()
    logs.configure_child()
    options = read_options(EngineOptions)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides.
    servers: list[EngineServer] = []
    send_heartbeats_from_thread(lambda: all(server.is_working for server in servers))
    threading.stack_size(_TOKENIZER_STACK_BYTES)
    try:
        model, backend, projector = _load(options)
        mmproj = () if options.mmproj_path is None else (Path(options.mmproj_path),)
        release_zeros()
        computing = backend.model if isinstance(backend, ParallelContexts) else model
        with DigestComputation((model.path, *mmproj, *library_files(computing))) as digest_computation:
            adapters = AdapterManager(
                registry_path(Path(options.socket_path)), options.max_adapters, options.max_adapters_per_owner
            )
            if not isinstance(backend, ParallelContexts):
                adapters.restore(backend)
            server = EngineServer(model, backend, adapters, options, digest_computation, projector=projector)
            servers.append(server)
            asyncio.run(_serve_until_stopped(server))
    except (LibraryError, ModelError) as error:
        _print_to_parent(f"failed {error}")
        return 2
    except DecodeError as error:
        _log.error("decoding_failed", reason=str(error))
        return 1
    return 0


def _load(options: EngineOptions) -> tuple[Model, Backend | ParallelContexts, ImageProjector | None]:
    """Load the model and its projector, and open what computes it. Raises LibraryError or ModelError."""
    path, context = Path(options.model_path), _context_options(options)
    if options.kind == "generation":
        library = options.library or (LLAMA_CPP if options.mmproj_path else None)
        model = load_model(path, library, context)
        projector = _load_projector(options, model)
        backend = open_backend(model, context, projector, partitions=options.kv_cache_partitions)
        return model, backend, projector
    model = load_embedding_model(path, options.library)
    _load_projector(options, model)
    return model, open_embedding_context(model, options.kind, context, options.library), None


def _load_projector(options: EngineOptions, model: Model) -> ImageProjector | None:
    """Load the projector file, if there is one. Raises LibraryError or ModelError."""
    if options.mmproj_path is None:
        return None
    if options.kind != "generation":
        raise ModelError(
            f"{model.path} is for embeddings or reranking, which take no images; serve it without --mmproj"
        )
    return ImageProjector(model, Path(options.mmproj_path), options.threads)


def _context_options(options: EngineOptions) -> ContextOptions:
    return ContextOptions(
        context_cells=options.kv_cache_tokens,
        batch_tokens=max_batch_tokens(options.max_sequences, options.max_batched_tokens),
        threads=options.threads,
        reproducible=options.reproducible,
        sequence_ids=options.max_sequences + SPARE_SEQUENCE_IDS,
    )


async def _serve_until_stopped(server: EngineServer) -> None:
    """Serve until SIGTERM arrives or the parent is gone, which closes the pipes to it."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.set)

    def read_standard_input() -> None:
        received = os.read(sys.stdin.fileno(), 1024)
        if UNLOAD_LINE in received:
            server.unload()
        elif not received:
            loop.remove_reader(sys.stdin.fileno())
            ended.set()

    def report_ready() -> None:
        if not _print_to_parent("ready"):
            ended.set()

    loop.add_reader(sys.stdin.fileno(), read_standard_input)
    await server.run(ended, report_ready)


def _print_to_parent(line: str) -> bool:
    """Print the line on standard output. False if the parent has closed it."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        # The interpreter flushes standard output once more when it ends, and would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
