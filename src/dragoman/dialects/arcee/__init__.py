"""Arcee Platform: one chat route in OpenAI's shape, its errors in FastAPI's envelope."""

from dragoman.dialects.arcee.routes import FORMS as FORMS
from dragoman.dialects.arcee.routes import OPERATIONS as OPERATIONS
from dragoman.dialects.arcee.routes import own_routes as own_routes
from dragoman.dialects.arcee.routes import routes as routes
