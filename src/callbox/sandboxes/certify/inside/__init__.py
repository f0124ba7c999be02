"""Programs that run inside a sandbox; they are read as text and never imported."""
