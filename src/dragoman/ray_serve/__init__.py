"""Engines placed on a cluster by Ray Serve, as upstreams of servers outside of it. Needs the extra `ray`."""
