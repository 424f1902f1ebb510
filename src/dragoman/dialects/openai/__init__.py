"""Requests and responses in OpenAI's shape, which several dialects share."""
