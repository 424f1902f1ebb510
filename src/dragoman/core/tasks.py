"""What a model may be asked to do."""

from dragoman.core.embedding import EmbeddingRequest
from dragoman.core.request import GenerationRequest

Task = GenerationRequest | EmbeddingRequest
"""An answer to one prompt, or the vectors of several inputs."""
