"""The builds of llama.cpp the engine can compute with, behind one set of functions."""
