"""OpenAI's API: a dialect of its own, and the shapes that several others share."""
