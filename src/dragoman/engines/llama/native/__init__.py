"""llama.cpp's shared libraries, and models and contexts inside them."""
