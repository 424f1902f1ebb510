"""From a conversation to the text a model was trained on."""
