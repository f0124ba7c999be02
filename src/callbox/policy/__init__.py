"""Policy: what may run."""
