"""From generated tokens to text, reasoning and tool calls."""
