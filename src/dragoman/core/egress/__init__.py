"""Requests to URLs that clients name: which of them are allowed, and how to connect to no other address."""
