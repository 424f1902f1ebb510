"""Where everything is built and run: settings, processes, the ASGI app. Nobody imports the server but the CLI."""
