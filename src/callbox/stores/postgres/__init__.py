"""Journals in Postgres: for many processes on many hosts. Needs the extra `callbox[postgres]`."""

from callbox.errors import ConfigurationError

try:
    import asyncpg
except ImportError as error:
    raise ConfigurationError("A store in Postgres needs asyncpg.", hint='pip install "callbox[postgres]"') from error

assert asyncpg.__name__  # every module here needs it
