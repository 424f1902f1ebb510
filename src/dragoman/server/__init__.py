"""Settings, processes and the ASGI app, built from all other packages. Only the CLI imports this one."""
