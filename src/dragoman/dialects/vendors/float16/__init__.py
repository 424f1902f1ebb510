"""Float16.cloud's one-click deploy: one deployment, one model, the deployment's name in the path."""

from dragoman.dialects.vendors.float16.routes import ENDPOINT_CODECS as ENDPOINT_CODECS
from dragoman.dialects.vendors.float16.routes import OPERATIONS as OPERATIONS
from dragoman.dialects.vendors.float16.routes import routes as routes
from dragoman.dialects.vendors.float16.routes import vendor_routes as vendor_routes
