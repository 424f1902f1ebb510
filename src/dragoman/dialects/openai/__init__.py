"""Request and response shapes that OpenAI introduced and several dialects share."""
