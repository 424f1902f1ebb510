"""Accounts, keys, prices, limits and the ledger that every token is paid from; docs/ledger.md says what holds."""
