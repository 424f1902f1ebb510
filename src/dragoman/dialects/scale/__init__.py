"""Scale GenAI Platform, API v4: the model stands in the path, the answer is a pair of prompt and texts."""

from dragoman.dialects.scale.routes import FORMS as FORMS
from dragoman.dialects.scale.routes import OPERATIONS as OPERATIONS
from dragoman.dialects.scale.routes import own_routes as own_routes
from dragoman.dialects.scale.routes import routes as routes
