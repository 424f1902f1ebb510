"""Messages and options that worker and engine process exchange."""
