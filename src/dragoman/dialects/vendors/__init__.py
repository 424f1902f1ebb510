"""Five vendors, each described by its differences to the OpenAI shapes."""
