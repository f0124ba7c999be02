"""Context: what of a conversation is sent, and what it costs."""
