"""The HTTP pipeline that all dialects share."""
