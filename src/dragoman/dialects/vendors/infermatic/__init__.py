"""Infermatic.ai: the OpenAI-shaped routes without a prefix, in LiteLLM's envelopes and with vLLM's parameters."""

from dragoman.dialects.vendors.infermatic.routes import ENDPOINT_CODECS as ENDPOINT_CODECS
from dragoman.dialects.vendors.infermatic.routes import OPERATIONS as OPERATIONS
from dragoman.dialects.vendors.infermatic.routes import routes as routes

vendor_routes = routes
"""On a host of its own, infermatic has the same paths."""
