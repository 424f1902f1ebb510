"""The life of one request between a dialect and an engine."""
