"""Processes that live a session's life and may be killed: a nursery that is warm forks one for each job.

Jobs come as lines of JSON on standard input; how each process ended goes to standard output. A process of its own,
because a program with threads cannot fork.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from callbox.agents.session import Session
from callbox.errors import SessionNotFound
from callbox.gate.caller import Caller
from callbox.sessions.entries import Ended, Rewound
from callbox.stores.opening import open_store
from callbox.stores.store import SessionKey
from faults.session_checks import violations
from faults.session_mutants import MUTANTS
from faults.session_world import OUT_OF_TIME, YES_UP_TO, Files, Noting, agent_of, note_states

MAIN, FORK = "main", "fork"


class Life:
    """One process: which points it passes, and where it is killed.

    Args:
        job: `folder`, `url` of the store, `tenant`, `role`; `kill`: a point and which time it is passed, or None.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self.kill = tuple(job["kill"]) if job.get("kill") else None
        self.passed: list[str] = []
        self.times: Counter[str] = Counter()
        self.files = Files(Path(job["folder"]), self.reach)
        self.tenant = job["tenant"]
        self.store = Noting(open_store(job["url"]), self.files)

    def reach(self, point: str) -> None:
        """Note the point, or end here, as if the power of the process went."""
        self.times[point] += 1
        self.passed.append(point)
        if (point, self.times[point]) == self.kill:
            os.kill(os.getpid(), signal.SIGKILL)

    def session(self, name: str, **limits: Any) -> Session:
        agent = agent_of(self.files, self.store, **limits)  # type: ignore[arg-type]
        return agent.session(name, caller=Caller(tenant_id=self.tenant), busy_wait_s=0, reach=self.reach)

    async def say(self, session: Session, prompt: str, key: str) -> bool:
        """Whether it was answered."""
        run = await session.run(prompt, key=key)
        self.files.add(self.files.promises, {"run": run.id, "of": session.id, "stop": run.stop, "output": run.output})
        return run.stop != "approval"

    async def live(self) -> str:
        """All of it; what an earlier process did is only looked at."""
        main = self.session(MAIN)
        entries = []
        with contextlib.suppress(SessionNotFound):
            entries = await main.journal.read()
        if not any(isinstance(each.entry, Rewound) for each in entries):
            await self.say(main, "Prepare", "m1")
            if not await self.say(main, "Give back", "m2"):
                return "waiting"
            if await self.store.info(SessionKey(self.tenant, FORK)) is None:
                await main.fork(FORK)
            self.files.add(self.files.promises, {"forked": FORK})
            await self.say(self.session(FORK), "In another world", "m3")
            ends = [each.seq for each in await main.journal.read() if isinstance(each.entry, Ended)]
            await main.rewind(ends[0])
            self.files.add(self.files.promises, {"rewound": ends[0]})
        await self.say(main, "Instead", "m4")
        await self.say(self.session(MAIN, run_timeout_s=1e-9), OUT_OF_TIME, "m5")
        return "done"

    async def decide(self) -> str:
        """As a person does it, from another process."""
        session = self.session(MAIN)
        for waiting in await session.approvals():
            yes = waiting.arguments["amount"] <= YES_UP_TO  # type: ignore[operator]
            await (session.approve if yes else session.refuse)(waiting.id, by="kim")
            self.files.add(self.files.promises, {"decided": waiting.id, "yes": yes})
        return "decided"

    async def check(self, *, ended: bool) -> str:
        """Look from outside."""
        found = await violations(self.store, self.files, self.tenant, ended=ended)
        return json.dumps(found)


async def play(life: Life, role: str) -> str:
    """Be somebody until it is over."""
    try:
        if role == "live":
            return await life.live()
        return await life.decide() if role == "decide" else await life.check(ended=role == "check the end")
    finally:
        await life.store.aclose()


def be(job: dict[str, Any]) -> None:
    """In the forked process: do the job, and leave a word about it."""
    life = Life(job)
    if job["role"] in ("live", "decide"):
        note_states(life.files)
    if job.get("mutant"):
        MUTANTS[job["mutant"]]()
    try:
        left = {"how": asyncio.run(play(life, job["role"])), "passed": life.passed}
    except BaseException:
        left = {"how": "failed", "why": traceback.format_exc(), "passed": life.passed}
    life.files.left.write_text(json.dumps(left))


def warm_up() -> None:
    """Live once, so that whatever is imported and prepared at the first use is there in every fork."""
    import asyncpg  # noqa: F401

    from callbox.stores.postgres.store import PostgresStore  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        for role in ("live", "decide", "live", "decide", "live", "check the end"):
            job = {"folder": folder, "url": f"sqlite:///{folder}/sessions.db", "tenant": "acme", "role": role}
            asyncio.run(play(Life(job), role))
    assert threading.active_count() == 1, "what has threads cannot fork"
    gc.freeze()


def main() -> None:
    """Fork one process for each line, and wait for it."""
    warm_up()
    for line in sys.stdin:
        job = json.loads(line)
        left = Path(job["folder"]) / "left"
        left.unlink(missing_ok=True)
        pid = os.fork()
        if pid == 0:
            be(job)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        print(json.dumps({"how": "killed", "passed": []}) if killed else left.read_text(), flush=True)


if __name__ == "__main__":
    main()
