"""Journals in Postgres: for many processes on many hosts. Needs the extra `callbox[postgres]`."""
