"""Telling a URL of its client's choice that a job has ended. Every message is delivered at least once, or given up."""
