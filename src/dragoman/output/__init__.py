"""Processing of generated tokens into text, reasoning and tool calls, and grammars that constrain them."""
