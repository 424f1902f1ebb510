"""An engine without a model: it answers with the last message."""

from dragoman.engines.echo.engine import EchoEngine as EchoEngine
