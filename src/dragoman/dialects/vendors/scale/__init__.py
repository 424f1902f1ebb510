"""Scale GenAI Platform, API v4: the model is in the path, an answer is a pair of prompt and texts."""

from dragoman.dialects.vendors.scale.routes import ENDPOINT_CODECS as ENDPOINT_CODECS
from dragoman.dialects.vendors.scale.routes import OPERATIONS as OPERATIONS
from dragoman.dialects.vendors.scale.routes import routes as routes
from dragoman.dialects.vendors.scale.routes import vendor_routes as vendor_routes
