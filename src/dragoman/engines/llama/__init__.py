"""The embedded engine: llama.cpp in a process of its own, with our own scheduler, cache and sampler."""
