"""Calls: reading what a model emitted, and answering it."""
