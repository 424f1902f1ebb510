"""Accounts, keys, prices, usage and the audit log."""
