"""The servers that tests start are gone after them, however they end."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from support import until
from support_watch import users

TESTS = Path(__file__).parent.parent
RUN = """
import sys
sys.path.insert(0, sys.argv[1])
from support_postgres import PostgresServer
from support_redis import RedisServer
print({made}().folder, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("made", ["PostgresServer", "RedisServer"])
@pytest.mark.parametrize("killed", [True, False], ids=["killed", "ended"])
async def test_server_and_its_folder_are_gone_after_the_tests(made: str, killed: bool) -> None:
    run = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUN.format(made=made), TESTS, stdin=PIPE, stdout=PIPE
    )
    assert run.stdout is not None
    folder = Path((await run.stdout.readline()).decode().strip())
    assert folder.name.startswith("callbox-")
    assert len(users(folder)) >= 2  # the server, and who watches it
    if killed:
        run.kill()
    await run.communicate(b"")  # which closes its standard input
    if killed:
        await until(lambda: not folder.exists() and not users(folder))
    assert not folder.exists()
    assert not users(folder)
