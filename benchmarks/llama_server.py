"""llama.cpp's own server, from the same wheel that dragoman's engine comes from: the peer of benchmarks.engine.

Started as `python -m benchmarks.llama_server OPTIONS`. Prints its address on standard output when it is ready. It ends
when it is terminated or its standard input is closed, which happens however its parent ends.
"""

import os
import sys

import msgspec
import xllamacpp

_ERRORS_ONLY = 1


class LlamaServerOptions(msgspec.Struct, frozen=True):
    """Passed as JSON in the process's argument."""

    model_path: str
    context_cells: int
    parallel: int
    threads: int


def main() -> None:
    """Serve until told to end."""
    options = msgspec.json.decode(sys.argv[1], type=LlamaServerOptions)
    params = xllamacpp.CommonParams()
    params.model.path = options.model_path
    params.n_ctx = options.context_cells
    params.n_parallel = options.parallel
    params.kv_unified = True
    params.cpuparams.n_threads = options.threads
    params.cpuparams_batch.n_threads = options.threads
    params.verbosity = _ERRORS_ONLY
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()
    os._exit(0)  # The server's threads would keep the interpreter from ending.


if __name__ == "__main__":
    main()
