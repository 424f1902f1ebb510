"""The admin API under /admin: accounts, deposits, keys, prices, usage and the audit log."""

from dragoman.server.admin.route_table import OPERATIONS as OPERATIONS
from dragoman.server.admin.routes import routes as routes
