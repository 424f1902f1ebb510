"""Accounts, keys, prices, limits and the ledger that charges every token; docs/ledger.md states the guarantees."""
