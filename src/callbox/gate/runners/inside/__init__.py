"""Programs of the gate that run inside a sandbox. Read as text, never imported."""
