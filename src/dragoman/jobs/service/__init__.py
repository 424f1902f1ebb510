"""Take jobs in and answer questions about them."""
