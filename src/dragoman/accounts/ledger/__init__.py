"""Admit and settle requests in one transaction."""
