"""The names of the builds of llama.cpp."""

LLAMA_CPP = "llama.cpp"
IK_LLAMA_CPP = "ik_llama.cpp"
PACKAGED_BUILDS = (LLAMA_CPP, IK_LLAMA_CPP)
"""The builds installed with the server. Any other name is a path."""
