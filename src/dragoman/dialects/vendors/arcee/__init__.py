"""Arcee Platform: one chat route in OpenAI's shape, its errors in FastAPI's envelope."""

from dragoman.dialects.vendors.arcee.routes import ENDPOINT_CODECS as ENDPOINT_CODECS
from dragoman.dialects.vendors.arcee.routes import OPERATIONS as OPERATIONS
from dragoman.dialects.vendors.arcee.routes import routes as routes
from dragoman.dialects.vendors.arcee.routes import vendor_routes as vendor_routes
