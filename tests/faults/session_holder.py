"""A process that works on a session, and can be held in the middle: it tells where it is, and goes on when told to.

Its argument is JSON: `url`, `session`, `folder`, `key`, `ttl_s`, `wait_s`; `sizes_max`: bytes that no file may exceed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from callbox import Agent, CallContext, tool
from callbox.errors import CallboxError
from callbox.providers.scripted import Scripted
from callbox.sessions import journal
from callbox.stores.opening import open_store
from faults.session_world import Files, Noting, call

TURNS = ([call("hold", number=1), call("pay", amount=2)], [call("hold", number=3), call("pay", amount=4)], "Done.")
RESULT = random.Random(4).randbytes(2000).hex()  # journals are deflated


def tell(**what: Any) -> None:
    """Say something to whoever started this process."""
    print(json.dumps(what), flush=True)


async def main() -> None:
    """Say the prompt, and tell how that ended."""
    job = json.loads(sys.argv[1])
    files = Files(Path(job["folder"]))
    if job.get("sizes_max"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["sizes_max"], resource.RLIM_INFINITY))
        journal.APPEND_WAIT_S = 0.01

    def effect(name: str, what: int, context: CallContext) -> None:
        line = {"tool": name, "what": what, "key": context.idempotency_key, "pid": os.getpid()}
        files.add(files.effects, line, sync=True)

    @tool(timeout_s=3600)
    async def hold(number: int, context: CallContext) -> str:
        """Wait until somebody says a word."""
        effect("hold", number, context)
        tell(at="hold", number=number)
        if not job.get("hurry"):
            await asyncio.to_thread(sys.stdin.readline)
        return f"{number} {RESULT}"

    @tool
    async def pay(amount: int, context: CallContext) -> str:
        """Pay."""
        effect("pay", amount, context)
        return f"{amount} {RESULT}"

    def say(messages: Sequence[Any]) -> Any:
        asked = max(at for at, message in enumerate(messages) if message.role == "user")
        return TURNS[sum(message.role == "assistant" for message in messages[asked:])]

    store = Noting(open_store(job["url"]), files)
    agent = Agent(model=Scripted(say), tools=[hold, pay], store=store)  # type: ignore[arg-type]
    session = agent.session(job["session"], lease_ttl_s=job["ttl_s"], busy_wait_s=job["wait_s"])
    try:
        run = await session.run("Go", key=job["key"])
        tell(end=run.stop, run=run.id)
    except CallboxError as error:
        tell(end=type(error).__name__, retryable=error.retryable)
    await store.aclose()


if __name__ == "__main__":
    asyncio.run(main())
