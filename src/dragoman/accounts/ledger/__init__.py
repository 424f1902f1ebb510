"""Admission and settlement of requests, many to a transaction."""
