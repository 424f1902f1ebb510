"""Float16.cloud's one-click deploy: one deployment, one model, the deployment's name in the path."""

from dragoman.dialects.float16.routes import FORMS as FORMS
from dragoman.dialects.float16.routes import OPERATIONS as OPERATIONS
from dragoman.dialects.float16.routes import own_routes as own_routes
from dragoman.dialects.float16.routes import routes as routes
