"""Projector files (mmproj) with random weights, which read images of 56 x 56 pixels in patches of 14."""

import base64
import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
from gguf import GGMLQuantizationType as Type
from PIL import Image

from dragoman.engines.llama.raw_image import RawImage
from tests.support.gguf_files import Weights, random_tensor, write_gguf

ProjectorKind = Literal["mlp", "gemma3", "idefics3", "qwen2vl_merger"]
"""LLaVA's; Gemma 3's, whose image is read at once; SmolVLM's, with tiles; Qwen 2 VL's, with positions in space."""

TEXT_WIDTH = 64
"""Of the models of tests.support.gguf_files."""

_WIDTH, _INNER, _PATCH, _SIZE = 16, 32, 14, 56
_PATCHES = (_SIZE // _PATCH) ** 2


def write_projector(path: Path, kind: ProjectorKind = "mlp", *, text_width: int = TEXT_WIDTH) -> Path:
    """Write a file for models whose embeddings have `text_width` values."""
    has_class = kind == "mlp"
    shapes: dict[str, tuple[int, ...]] = {
        "v.patch_embd.weight": (_WIDTH, 3, _PATCH, _PATCH),
        "v.position_embd.weight": (_PATCHES + has_class, _WIDTH),
    }
    vectors = {"v.post_ln.weight": _WIDTH, "v.post_ln.bias": _WIDTH}
    match kind:
        case "mlp":
            shapes |= {"mm.0.weight": (text_width, _WIDTH), "mm.2.weight": (text_width, text_width)}
            vectors |= {"v.class_embd": _WIDTH, "v.pre_ln.weight": _WIDTH, "v.pre_ln.bias": _WIDTH}
            vectors |= {"mm.0.bias": text_width, "mm.2.bias": text_width}
        case "gemma3":
            shapes |= {"mm.input_projection.weight": (_WIDTH, text_width)}
            vectors |= {"v.patch_embd.bias": _WIDTH, "mm.soft_emb_norm.weight": _WIDTH}
        case "idefics3":
            shapes |= {"mm.model.fc.weight": (text_width, 4 * _WIDTH)}
            vectors |= {"v.patch_embd.bias": _WIDTH}
        case "qwen2vl_merger":
            shapes |= {"v.patch_embd.weight.1": (_WIDTH, 3, _PATCH, _PATCH)}
            shapes |= {"mm.0.weight": (4 * _WIDTH, 4 * _WIDTH), "mm.2.weight": (text_width, 4 * _WIDTH)}
            vectors |= {"mm.0.bias": 4 * _WIDTH, "mm.2.bias": text_width}
    for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
        shapes[f"v.blk.0.{name}.weight"] = (_WIDTH, _WIDTH)
    shapes |= {"v.blk.0.ffn_up.weight": (_INNER, _WIDTH), "v.blk.0.ffn_down.weight": (_WIDTH, _INNER)}
    vectors |= {f"v.blk.0.{name}.bias": _WIDTH for name in ("attn_q", "attn_k", "attn_v", "attn_out", "ffn_down")}
    vectors |= {f"v.blk.0.{name}.{part}": _WIDTH for name in ("ln1", "ln2") for part in ("weight", "bias")}
    vectors["v.blk.0.ffn_up.bias"] = _INNER
    tensors: dict[str, tuple[Weights, Type]] = {
        name: (random_tensor(*shape, seed=seed) / np.float32(4), Type.F32)
        for seed, (name, shape) in enumerate({**shapes, **{name: (size,) for name, size in vectors.items()}}.items())
    }
    return write_gguf(path, tensors, metadata=_metadata(kind, text_width), architecture="clip")


def _metadata(kind: ProjectorKind, text_width: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "general.type": "mmproj",
        "clip.has_vision_encoder": True,
        "clip.projector_type": kind,
        "clip.use_gelu": True,
        "clip.vision.image_size": _SIZE,
        "clip.vision.patch_size": _PATCH,
        "clip.vision.embedding_length": _WIDTH,
        "clip.vision.feed_forward_length": _INNER,
        "clip.vision.block_count": 1,
        "clip.vision.projection_dim": text_width,
        "clip.vision.attention.head_count": 2,
        "clip.vision.attention.layer_norm_epsilon": 1e-5,
        "clip.vision.image_mean": [0.5] * 3,
        "clip.vision.image_std": [0.5] * 3,
    }
    if kind == "idefics3":
        metadata |= {"clip.vision.projector.scale_factor": 2, "clip.vision.preproc_image_size": 2 * _SIZE}
    return metadata


def random_image(seed: int = 0, width: int = 40, height: int = 30) -> RawImage:
    """Make an image of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, height * width * 3, dtype=np.uint8)
    return RawImage(width, height, pixels.tobytes())


def data_url(image: RawImage, kind: str = "PNG") -> str:
    """Write an image as an address that contains it."""
    encoded = io.BytesIO()
    Image.frombytes("RGB", (image.width, image.height), image.pixels).save(encoded, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(encoded.getvalue()).decode()}"
