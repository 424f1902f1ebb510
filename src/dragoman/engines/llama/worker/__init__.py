"""The engine's client inside an HTTP worker."""
