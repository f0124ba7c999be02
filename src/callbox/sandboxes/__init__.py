"""Isolated machines with a kernel of their own: asleep when idle, awake in milliseconds, nothing forgotten."""
