"""Where journals are kept: memory, SQLite, Postgres, and Redis in front."""
