"""Values that all parts of the queue pass around."""
