"""The admin API under /admin: accounts, deposits, keys, prices, usage, and who changed what."""

from dragoman.server.admin.operations import OPERATIONS as OPERATIONS
from dragoman.server.admin.routes import routes as routes
