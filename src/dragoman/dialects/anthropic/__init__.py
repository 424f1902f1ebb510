"""Anthropic's Messages API, as its own libraries and Claude Code speak it."""

from dragoman.dialects.anthropic.routes import ENDPOINT_CODECS as ENDPOINT_CODECS
from dragoman.dialects.anthropic.routes import OPERATIONS as OPERATIONS
from dragoman.dialects.anthropic.routes import routes as routes
from dragoman.dialects.anthropic.routes import vendor_routes as vendor_routes
