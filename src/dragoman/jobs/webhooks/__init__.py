"""Send webhooks when jobs end. Every message is delivered at least once, or given up after the last attempt."""
