"""The transactions that change jobs and settle their requests in the ledger."""
