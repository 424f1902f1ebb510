"""A real engine without a model: it answers with what was said last."""

from dragoman.engines.echo.engine import EchoEngine as EchoEngine
