"""The one process per home that owns every machine: one task per sandbox, and a socket that clients talk to."""
