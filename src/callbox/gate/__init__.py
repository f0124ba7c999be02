"""The gate: the one path that every call takes."""
