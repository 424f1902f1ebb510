"""The engine process: the socket server, and the thread that steps the model."""
