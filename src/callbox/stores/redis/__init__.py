"""Redis in front of another store: a cache and a fan-out, or the place where events wait to be flushed."""
