"""Isolated machines with a kernel of their own: asleep when idle, awake in milliseconds, memory and files as they were."""
