"""A database of its own for each test, and a store on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from callbox.stores.postgres.store import PostgresStore
from support_postgres import PostgresServer, server


@dataclass(frozen=True)
class Database:
    server: PostgresServer
    name: str

    @property
    def url(self) -> str:
        """As its plain role, who owns the database and is called like it."""
        return self.server.url(self.name, self.name)

    async def execute(self, *statements: str):
        """As the superuser, for whom row level security is void."""
        return await self.server.execute(*statements, database=self.name)


@pytest.fixture
async def database() -> AsyncIterator[Database]:
    there = await asyncio.to_thread(server)
    name = await there.fresh_database()
    yield Database(there, name)
    await there.drop(name)


@pytest.fixture
async def store(database: Database) -> AsyncIterator[PostgresStore]:
    made = PostgresStore(database.url)
    yield made
    await made.aclose()


@pytest.fixture
def database_url():
    """For tests that run event loops of their own."""
    there = server()
    name = asyncio.run(there.fresh_database())
    yield there.url(name, name)
    asyncio.run(there.drop(name))
