"""Deliver the events of jobs to the clients that follow them."""
