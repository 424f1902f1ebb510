"""The ledger process, its client, and the journal that outlives both."""
