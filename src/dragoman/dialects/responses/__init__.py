"""The Responses API of OpenAI and Open Responses: items instead of messages, and events for each of their parts."""

from dragoman.dialects.responses.routes import ENDPOINT_CODECS as ENDPOINT_CODECS
from dragoman.dialects.responses.routes import OPERATIONS as OPERATIONS
from dragoman.dialects.responses.routes import host_routes as host_routes
from dragoman.dialects.responses.routes import routes as routes
from dragoman.dialects.responses.routes import vendor_routes as vendor_routes
