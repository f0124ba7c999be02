import asyncio
import contextvars
import threading

import pytest

from callbox.gate.runners import threads as module
from callbox.gate.runners.threads import Threads
from support import let_others_run

VALUE = contextvars.ContextVar("VALUE", default="outside")


async def test_a_function_runs_in_another_thread_with_the_tasks_context():
    VALUE.set("inside")
    pool = Threads(2)
    thread, value = await pool.run(lambda: (threading.current_thread(), VALUE.get()))
    assert thread is not threading.current_thread()
    assert thread.daemon
    assert value == "inside"


async def test_what_it_raises_comes_out():
    with pytest.raises(KeyError):
        await Threads(1).run(lambda: {}["x"])


@pytest.mark.parametrize("kind", [StopIteration, asyncio.CancelledError])
async def test_an_exception_that_a_future_cannot_carry_is_named(kind):
    def fail():
        raise kind

    with pytest.raises(RuntimeError, match=kind.__name__):
        await Threads(1).run(fail)


async def test_never_more_threads_than_its_size_and_all_jobs_are_done():
    pool, lock = Threads(3), threading.Lock()
    running = most = 0

    def job():
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        gate.wait(5)
        with lock:
            running -= 1
        return 1

    gate = threading.Event()
    tasks = [asyncio.create_task(pool.run(job)) for _ in range(20)]
    while running < 3:
        await let_others_run()
    gate.set()
    assert sum(await asyncio.gather(*tasks)) == 20
    assert most == 3


async def test_a_busy_thread_does_not_hold_up_a_job_while_another_may_start():
    pool, blocked = Threads(2), threading.Event()
    first = asyncio.create_task(pool.run(lambda: blocked.wait(5)))
    assert await pool.run(lambda: "second") == "second"
    assert await pool.run(lambda: "third") == "third"
    blocked.set()
    assert await first


async def test_giving_up_does_not_wait_and_the_thread_is_used_again():
    pool, blocked = Threads(1), threading.Event()
    task = asyncio.create_task(pool.run(lambda: blocked.wait(5)))
    await let_others_run()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    waiting = asyncio.create_task(pool.run(lambda: "after"))
    blocked.set()
    assert await waiting == "after"


async def test_a_job_cancelled_in_the_queue_is_never_run():
    pool, blocked, ran = Threads(1), threading.Event(), []
    first = asyncio.create_task(pool.run(lambda: blocked.wait(5)))
    await let_others_run()
    second = asyncio.create_task(pool.run(lambda: ran.append(1)))
    await let_others_run()
    second.cancel()
    blocked.set()
    await first
    assert await pool.run(lambda: "third") == "third"
    assert ran == []


async def test_idle_threads_end_and_new_ones_start(monkeypatch):
    monkeypatch.setattr(module, "_IDLE_S", 0.01)
    pool = Threads(2)
    thread = await pool.run(threading.current_thread)
    await asyncio.to_thread(thread.join, 5)
    assert not thread.is_alive()
    assert await pool.run(lambda: "again") == "again"


def test_a_hanging_tool_does_not_keep_a_closed_loop_waiting():
    pool, blocked = Threads(1), threading.Event()

    async def main():
        task = asyncio.create_task(pool.run(lambda: blocked.wait(5)))
        await let_others_run()
        task.cancel()

    asyncio.run(main())
    blocked.set()  # settles into a closed loop: nothing may be raised in the thread
    assert asyncio.run(pool.run(lambda: "next loop")) == "next loop"
