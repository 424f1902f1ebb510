"""llama.cpp's shared libraries, and the models and contexts in them."""
