"""Empower: base models and LoRA adapters by name, in OpenAI's shape with some fields and defaults of its own."""

from dragoman.dialects.vendors.empower.routes import ENDPOINT_CODECS as ENDPOINT_CODECS
from dragoman.dialects.vendors.empower.routes import OPERATIONS as OPERATIONS
from dragoman.dialects.vendors.empower.routes import routes as routes
from dragoman.dialects.vendors.empower.routes import vendor_routes as vendor_routes
