"""Accounts, keys, prices, limits and the ledger that every token is paid from; docs/accounts.md says what holds."""
