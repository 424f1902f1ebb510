"""Empower: base models and LoRA adapters by name, in OpenAI's shape with a few fields and defaults of its own."""

from dragoman.dialects.empower.routes import FORMS as FORMS
from dragoman.dialects.empower.routes import OPERATIONS as OPERATIONS
from dragoman.dialects.empower.routes import own_routes as own_routes
from dragoman.dialects.empower.routes import routes as routes
