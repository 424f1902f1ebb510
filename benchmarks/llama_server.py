"""llama.cpp's own server, from the same wheel as the library of dragoman's engine: the peer in benchmarks.engine.

Started as `python -m benchmarks.llama_server OPTIONS`. It prints its address on standard output when it is ready, and
ends when it is terminated or its standard input is closed, which happens however its parent ends.
"""

import os
import sys

import msgspec
import xllamacpp

_ERRORS_ONLY = 1

_EMBEDDING_BATCH = 512
"""llama-server's own default of a physical batch."""


class LlamaServerOptions(msgspec.Struct, frozen=True):
    """Passed as JSON in the argument of the process."""

    model_path: str
    context_cells: int
    parallel: int
    threads: int
    embeddings: bool = False
    """Serve `/v1/embeddings`, and generate nothing."""
    drafts_ngrams: bool = False
    """Draft what followed the last 12 tokens before, up to 48 tokens: its `ngram-simple` as it is by default."""


def main() -> None:
    """Serve until the process is terminated."""
    options = msgspec.json.decode(sys.argv[1], type=LlamaServerOptions)
    params = xllamacpp.CommonParams()
    params.model.path = options.model_path
    params.n_ctx = options.context_cells
    params.n_parallel = options.parallel
    params.kv_unified = True
    params.cpuparams.n_threads = options.threads
    params.cpuparams_batch.n_threads = options.threads
    if options.embeddings:
        params.embedding = True
        # An input must fit into one physical batch; by default the rest of the batch is the same.
        params.n_batch = params.n_ubatch = _EMBEDDING_BATCH
    if options.drafts_ngrams:
        params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
    params.verbosity = _ERRORS_ONLY
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()
    os._exit(0)  # The server's threads would prevent the interpreter from ending.


if __name__ == "__main__":
    main()
