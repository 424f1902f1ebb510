"""Claim jobs, run them and store what they generate."""
