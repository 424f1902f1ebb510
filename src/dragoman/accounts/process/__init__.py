"""The ledger's process, its client, and the journal that survives both."""
