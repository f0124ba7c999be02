"""Stages of one call after reading: check, authorize, approve, limit, run, sanitize, render."""

import asyncio
import json
import sys
import threading

import pytest

from callbox import Allow, Ask, CallContext, Deny, Gate, Tool, ToolCall, ToolError, Toolset, tool
from callbox.errors import ConfigurationError, DefinitionError, Rejected
from callbox.gate.caller import Budget, Caller
from callbox.limits import Limits
from support import let_others_run


@tool(effect="read")
async def get_order(order_id: str) -> dict:
    """Look up one order.

    Args:
        order_id: The order's id.
    """
    return {"order_id": order_id, "state": "shipped"}


def call(name="get_order", **arguments):
    return ToolCall("c1", name, arguments)


async def one(gate, request, **options):
    [result] = await gate.execute([request], **options)
    return result


def error_of(result):
    assert result.is_error
    document = json.loads(result.content)
    assert document["error"] == result.error.code
    return document


def failing(error, **options):
    @tool(effect="read", **options)
    async def fail() -> str:
        """Fail in a certain way."""
        raise error

    return fail


async def test_a_good_call_is_answered_with_json():
    result = await one(Gate([get_order]), call(order_id="A-1"))
    assert json.loads(result.content) == {"order_id": "A-1", "state": "shipped"}
    assert result.value == {"order_id": "A-1", "state": "shipped"}
    assert (result.call_id, result.name, result.error, result.attempts) == ("c1", "get_order", None, 1)


# Checks


def orders_tool():
    @tool(effect="read")
    async def find(order_id: str, note: str = "") -> str:
        """Find one order."""
        return order_id

    return find


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_check_rejects_with_a_sentence(is_async):
    find = orders_tool()

    def known(order_id: str) -> str | None:
        return None if order_id == "A-1" else f"There is no order {order_id}."

    async def known_async(order_id: str) -> str | None:
        return known(order_id)

    find.check(known_async if is_async else known)
    gate = Gate([find])
    assert not (await one(gate, call("find", order_id="A-1"))).is_error
    document = error_of(await one(gate, call("find", order_id="B")))
    assert document["error"] == "rejected_by_check"
    assert document["message"] == "There is no order B."


async def test_a_check_can_name_the_path_and_the_way_out():
    find = orders_tool()

    @find.check
    def known(order_id: str) -> None:
        raise Rejected("There is no such order.", path="/order_id", suggestion="Ask for the id.")

    document = error_of(await one(Gate([find]), call("find", order_id="B")))
    assert document == {
        "error": "rejected_by_check",
        "message": "There is no such order.",
        "path": "/order_id",
        "suggestion": "Ask for the id.",
    }


async def test_a_check_sees_the_caller():
    find = orders_tool()

    @find.check
    def may(order_id: str, context: CallContext) -> str | None:
        return None if context.user_id == "ann" else "Not yours."

    assert not (await one(Gate([find]), call("find", order_id="A"), caller=Caller(user_id="ann"))).is_error
    assert error_of(await one(Gate([find]), call("find", order_id="A")))["message"] == "Not yours."


async def test_a_check_about_an_absent_optional_argument_is_skipped():
    find = orders_tool()
    find.check(lambda note: "bad note")
    gate = Gate([find])
    assert not (await one(gate, call("find", order_id="A"))).is_error
    assert (await one(gate, call("find", order_id="A", note="n"))).is_error


async def test_a_broken_check_lets_nothing_through():
    find, ran = orders_tool(), []

    @find.check
    def broken(order_id: str) -> None:
        raise ZeroDivisionError("secret detail")

    document = error_of(await one(Gate([find]), call("find", order_id="A")))
    assert document["error"] == "tool_failed"
    assert "secret" not in document["message"]
    assert ran == []


def test_a_check_that_asks_for_what_the_tool_does_not_take_is_refused_at_once():
    with pytest.raises(DefinitionError, match="order_id"):
        orders_tool().check(lambda customer: None)


# Authorize and approve


async def test_a_missing_scope_denies():
    @tool(effect="read", scopes=["orders:read"])
    async def find() -> str:
        """Find orders."""
        return "found"

    gate = Gate([find])
    assert error_of(await one(gate, call("find")))["error"] == "denied"
    allowed = await one(gate, call("find"), caller=Caller(scopes=frozenset(["orders:read"])))
    assert allowed.content == "found"


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        (lambda question: Allow(), None),
        (lambda question: Deny("Not today."), "denied"),
        (lambda question: Ask("Sure?"), "approval_required"),
        (lambda question: None, "denied"),
        (lambda question: True, "denied"),
        (lambda question: 1 / 0, "denied"),
    ],
)
async def test_a_policy_decides_and_fails_closed(policy, code):
    result = await one(Gate([get_order], policy=policy), call(order_id="A"))
    assert (result.error.code if result.error else None) == code


async def test_a_policy_object_that_decides_nothing_denies():
    class Undecided:
        def decide(self, question):
            return "yes"

    assert error_of(await one(Gate([get_order], policy=Undecided()), call(order_id="A")))["error"] == "denied"


async def test_a_policy_sees_valid_arguments_and_the_caller():
    seen = []

    def policy(question):
        seen.append((question.tool.name, question.arguments, question.user_id, question.tenant_id))
        return Allow()

    gate = Gate([get_order], policy=policy)
    await one(gate, call(order_id="A"), caller=Caller(user_id="ann", tenant_id="t1"))
    await one(gate, call(order_id=7))
    assert seen == [("get_order", {"order_id": "A"}, "ann", "t1")]


async def approve(request, tool, ask):
    return request.arguments["order_id"] == "A"


def approve_sync(request, tool, ask):
    return request.arguments["order_id"] == "A"


@pytest.mark.parametrize("approver", [approve, approve_sync])
async def test_an_approver_is_asked(approver):
    gate = Gate([get_order], policy=lambda question: Ask(), approver=approver)
    assert not (await one(gate, call(order_id="A"))).is_error
    assert error_of(await one(gate, call(order_id="B")))["error"] == "approval_refused"


@pytest.mark.parametrize("answer", ["yes", 1, None, object()])
async def test_only_true_is_a_yes(answer):
    gate = Gate([get_order], policy=lambda question: Ask(), approver=lambda *asked: answer)
    assert error_of(await one(gate, call(order_id="A")))["error"] == "approval_refused"


async def test_an_approver_that_fails_is_no_yes():
    gate = Gate([get_order], policy=lambda question: Ask(), approver=lambda *asked: 1 / 0)
    assert error_of(await one(gate, call(order_id="A")))["error"] == "approval_required"


async def test_a_tool_that_wants_approval_gets_it_even_where_the_policy_allows():
    @tool(effect="destructive", approval="always")
    async def wipe() -> str:
        """Wipe the disk."""
        return "wiped"

    result = await one(Gate([wipe], policy=lambda question: Allow()), call("wipe"))
    assert error_of(result)["error"] == "approval_required"
    assert (await one(Gate([wipe], approver=lambda *asked: True), call("wipe"))).content == "wiped"


# Failures


async def test_a_tool_error_is_sent_as_it_is():
    error = ToolError("The printer is off.", suggestion="Turn it on.", retryable=True)
    result = await one(Gate([failing(error)]), call("fail"))
    assert error_of(result) == {
        "error": "tool_failed",
        "message": "The printer is off.",
        "suggestion": "Turn it on.",
    }
    assert result.error.retryable


async def test_an_unexpected_exception_is_named_but_its_text_is_kept_back():
    document = error_of(await one(Gate([failing(ValueError("postgres://u:pw@h"))]), call("fail")))
    assert "ValueError" in document["message"]
    assert "pw" not in json.dumps(document)


async def test_its_text_is_sent_where_the_tool_says_so():
    document = error_of(await one(Gate([failing(ValueError("no column x"), expose_errors=True)]), call("fail")))
    assert document["message"] == "The tool failed with ValueError: no column x."


@pytest.mark.parametrize(
    "error", [SystemExit(1), RecursionError(), MemoryError(), asyncio.CancelledError(), TimeoutError("own")]
)
async def test_no_way_of_failing_ends_the_host(error):
    document = error_of(await one(Gate([failing(error)]), call("fail")))
    assert document["error"] == "tool_failed"
    assert type(error).__name__ in document["message"]


async def test_a_sync_tool_that_exits_does_not_end_the_host():
    @tool(effect="read")
    def leave() -> str:
        """Leave."""
        sys.exit(3)

    assert "SystemExit" in error_of(await one(Gate([leave]), call("leave")))["message"]


async def test_a_tool_that_nobody_can_run_says_so():
    declared = Tool("t", "Declared only.", {"type": "object", "properties": {}})
    assert "only declared" in error_of(await one(Gate([declared]), call("t")))["message"]


# Deadlines and cancellation


@pytest.mark.parametrize("effect", ["read", "write"])
async def test_a_tool_is_ended_at_its_deadline(effect):
    ended = asyncio.Event()

    @tool(effect=effect, timeout_s=0.02)
    async def wait() -> str:
        """Wait for ever."""
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    document = error_of(await one(Gate([wait]), call("wait")))
    assert document["error"] == "timeout"
    assert ended.is_set()
    assert ("may have" in document.get("suggestion", "")) == (effect == "write")


async def test_a_sync_tool_is_told_and_given_up_at_its_deadline():
    told, begun = threading.Event(), threading.Event()

    @tool(effect="read", timeout_s=0.05)
    def wait(context: CallContext) -> str:
        """Wait in a thread."""
        begun.set()
        while not context.is_cancelled():
            told.wait(0.001)
        told.set()
        return "late"

    assert error_of(await one(Gate([wait]), call("wait")))["error"] == "timeout"
    assert begun.is_set()
    assert await asyncio.to_thread(told.wait, 5)


async def test_cancelling_the_caller_reaches_the_tool():
    begun, ended = asyncio.Event(), asyncio.Event()

    @tool(effect="read")
    async def wait() -> str:
        """Wait for ever."""
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(one(Gate([wait]), call("wait")))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_the_context_says_what_a_tool_may_know():
    seen = []

    @tool(effect="read", timeout_s=30)
    async def look(context: CallContext) -> str:
        """Look around."""
        assert 29 < context.remaining_s() <= 30
        assert not context.is_cancelled()
        seen.append(context)
        return "ok"

    caller = Caller(user_id="u", tenant_id="t", session_id="s", scopes=frozenset("x"), state={"k": 1})
    gate = Gate([look])
    budget = Budget()
    await gate.execute([call("look"), ToolCall("c2", "look")], caller=caller, budget=budget)
    first, second = seen
    assert (first.user_id, first.tenant_id, first.session_id, first.state) == ("u", "t", "s", {"k": 1})
    assert (first.call_id, first.tool, first.attempt, first.run_id) == ("c1", "look", 1, budget.run_id)
    assert first.idempotency_key != second.idempotency_key
    assert first.is_cancelled()


# Retries


def flaky(times, error, **options):
    attempts = []

    @tool(effect="read", **options)
    async def fetch(context: CallContext) -> str:
        """Fetch something."""
        attempts.append((context.attempt, context.idempotency_key))
        if len(attempts) <= times:
            raise error
        return "fetched"

    return fetch, attempts


@pytest.fixture
def no_waiting(monkeypatch):
    monkeypatch.setattr("callbox.gate.retry.RETRY_WAIT_S", 0.0)


async def test_a_retryable_failure_is_retried_with_the_same_key(no_waiting):
    fetch, attempts = flaky(2, ToolError("busy", retryable=True), retries=2)
    result = await one(Gate([fetch]), call("fetch"))
    assert (result.content, result.attempts) == ("fetched", 3)
    assert [attempt for attempt, _ in attempts] == [1, 2, 3]
    assert len({key for _, key in attempts}) == 1


async def test_retries_end_and_the_last_error_is_the_answer(no_waiting):
    fetch, attempts = flaky(9, ConnectionError(), retries=2, retry_on=(ConnectionError,))
    result = await one(Gate([fetch]), call("fetch"))
    assert error_of(result)["error"] == "tool_failed"
    assert result.error.retryable
    assert len(attempts) == 3


async def test_what_is_not_retryable_is_run_once():
    fetch, attempts = flaky(9, ToolError("no"), retries=3)
    await one(Gate([fetch]), call("fetch"))
    assert len(attempts) == 1


def test_a_write_that_is_not_idempotent_may_not_be_retried():
    def pay() -> None:
        """Pay the bill."""

    with pytest.raises(DefinitionError, match="idempotent"):
        tool(retries=1)(pay)


# Limits


async def test_a_tools_own_concurrency_holds_across_turns():
    running = most = 0

    @tool(effect="read", concurrency=2)
    async def work() -> str:
        """Work."""
        nonlocal running, most
        running += 1
        most = max(most, running)
        await let_others_run()
        running -= 1
        return "done"

    gate = Gate([work])
    calls = [ToolCall(str(index), "work") for index in range(6)]
    turns = await asyncio.gather(gate.execute(calls), gate.execute(calls))
    assert all(result.content == "done" for results in turns for result in results)
    assert most == 2


async def test_the_gates_concurrency_holds_for_all_tools():
    running = most = 0

    @tool(effect="read")
    async def work() -> str:
        """Work."""
        nonlocal running, most
        running += 1
        most = max(most, running)
        await let_others_run()
        running -= 1
        return "done"

    gate = Gate([work], limits=Limits(concurrency_max=3))
    await gate.execute([ToolCall(str(index), "work") for index in range(10)])
    assert most == 3


def test_one_gate_serves_several_loops_one_after_another():
    @tool(effect="read", concurrency=1)
    async def work() -> str:
        """Work."""
        await let_others_run()
        return "done"

    gate = Gate([work], limits=Limits(concurrency_max=1))
    calls = [ToolCall(str(index), "work") for index in range(4)]
    for _ in range(2):
        assert [result.content for result in asyncio.run(gate.execute(calls))] == ["done"] * 4


async def test_the_runs_calls_are_a_budget():
    gate = Gate([get_order], limits=Limits(calls_per_run_max=2))
    budget = Budget(gate.limits)
    calls = [ToolCall(str(index), "get_order", {"order_id": "A"}) for index in range(3)]
    results = await gate.execute(calls, budget=budget)
    assert [result.is_error for result in results] == [False, False, True]
    assert error_of(results[2])["error"] == "budget_exhausted"
    assert budget.exhausted == "calls"


async def test_the_runs_time_is_a_budget():
    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

        def wall(self):
            return self.now

    clock = Clock()
    budget = Budget(Limits(run_timeout_s=10), clock)
    clock.now = 11
    assert error_of(await one(Gate([get_order]), call(order_id="A"), budget=budget))["error"] == "budget_exhausted"
    assert budget.exhausted == "time"


async def test_a_turn_has_a_limit_of_calls():
    gate = Gate([get_order], limits=Limits(calls_per_turn_max=2))
    calls = [ToolCall(str(index), "get_order", {"order_id": "A"}) for index in range(4)]
    results = await gate.execute(calls)
    assert [result.is_error for result in results] == [False, False, True, True]
    assert error_of(results[3])["error"] == "budget_exhausted"


async def test_a_long_result_is_cut():
    @tool(effect="read")
    async def dump() -> str:
        """Dump everything."""
        return "x" * 1_000

    result = await one(Gate([dump], limits=Limits(result_chars_max=100)), call("dump"))
    assert result.truncated
    assert result.content.startswith("x" * 100 + "\n[cut")


async def test_a_sanitizer_sees_every_result_and_fails_closed():
    gate = Gate([get_order], sanitizer=lambda text, tool: text.replace("shipped", "***"))
    assert "***" in (await one(gate, call(order_id="A"))).content
    broken = Gate([get_order], sanitizer=lambda text, tool: 1 / 0)
    document = error_of(await one(broken, call(order_id="A")))
    assert "shipped" not in json.dumps(document)


async def test_progress_is_reported_from_threads_too():
    reports = []

    class Watcher:
        def started(self, call):
            reports.append("started")

        def progress(self, call, progress, total, message):
            reports.append((progress, total, message, threading.current_thread() is threading.main_thread()))

        def finished(self, result):
            reports.append("finished")

    @tool(effect="read")
    def work(context: CallContext) -> str:
        """Work."""
        context.report(1, 2, "half")
        return "done"

    await one(Gate([work]), call("work"), observer=Watcher())
    assert reports == ["started", (1, 2, "half", True), "finished"]


# What a hostile model, a careless tool or a broken guard must not achieve


async def test_a_check_may_answer_with_a_boolean():
    find = orders_tool()
    find.check(lambda order_id: order_id == "A-1")
    gate = Gate([find])
    assert not (await one(gate, call("find", order_id="A-1"))).is_error
    assert error_of(await one(gate, call("find", order_id="B")))["error"] == "rejected_by_check"


async def test_a_check_that_answers_nonsense_lets_nothing_through():
    find = orders_tool()
    find.check(lambda order_id: 5)
    assert error_of(await one(Gate([find]), call("find", order_id="A")))["error"] == "tool_failed"


async def test_a_check_that_hangs_is_ended_at_the_deadline():
    find = orders_tool()

    @find.check
    async def hang(order_id: str) -> None:
        await asyncio.Event().wait()

    gate = Gate([find], limits=Limits(tool_timeout_s=0.02))
    assert error_of(await one(gate, call("find", order_id="A")))["error"] == "tool_failed"


async def test_a_sync_check_does_not_stop_the_loop():
    find, here = orders_tool(), threading.current_thread()
    threads = []

    @find.check
    def look(order_id: str) -> None:
        threads.append(threading.current_thread())

    await one(Gate([find]), call("find", order_id="A"))
    assert threads[0] is not here


async def test_guards_that_cancel_themselves_refuse_and_nobody_else_is_cancelled():
    async def give_up(*asked):
        raise asyncio.CancelledError

    find = orders_tool()
    find.check(_cancelling_check)
    assert error_of(await one(Gate([find]), call("find", order_id="A")))["error"] == "tool_failed"
    gate = Gate([get_order], policy=lambda question: Ask(), approver=give_up)
    assert error_of(await one(gate, call(order_id="A")))["error"] == "approval_required"


async def _cancelling_check(order_id: str) -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("guard", ["check", "approver"])
async def test_cancelling_the_caller_reaches_the_guards(guard):
    begun = asyncio.Event()

    async def wait(*asked):
        begun.set()
        await asyncio.Event().wait()

    async def check(order_id: str) -> None:
        await wait()

    find = orders_tool()
    if guard == "check":
        find.check(check)
    gate = Gate([find], policy=lambda question: Ask(), approver=wait)
    task = asyncio.create_task(one(gate, call("find", order_id="A")))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_was_decided_on_is_what_runs():
    ran = []

    @tool(effect="write")
    async def pay(amount: int, items: list[dict[str, int]]) -> str:
        """Pay an amount."""
        ran.append((amount, items))
        return "paid"

    def policy(question):
        question.arguments["amount"] = "not an int"
        question.arguments["items"][0]["n"] = 99
        return Ask()

    request = call("pay", amount=1, items=[{"n": 1}])

    async def approver(shown, tool, ask):
        request.arguments["amount"] = 1_000_000
        shown.arguments["items"].clear()
        return True

    assert (await one(Gate([pay], policy=policy, approver=approver), request)).content == "paid"
    assert ran == [(1, [{"n": 1}])]


async def test_a_tool_that_changes_its_arguments_changes_nobody_elses(no_waiting):
    seen = []

    @tool(effect="read", retries=1)
    async def consume(items: list[str]) -> str:
        """Consume the items."""
        seen.append(list(items))
        items.clear()
        raise ToolError("again", retryable=True)

    request = call("consume", items=["a", "b"])
    await one(Gate([consume]), request)
    assert seen == [["a", "b"], ["a", "b"]]
    assert request.arguments == {"items": ["a", "b"]}


async def test_a_person_who_refused_is_not_asked_again_in_the_same_run():
    asked = []

    def approver(shown, tool, ask):
        asked.append(shown.arguments)
        return False

    gate, budget = Gate([get_order], policy=lambda question: Ask(), approver=approver), Budget()
    for order_id in ("A", "A", "B", "A"):
        result = await one(gate, call(order_id=order_id), budget=budget)
        assert error_of(result)["error"] == "approval_refused"
    assert asked == [{"order_id": "A"}, {"order_id": "B"}]


class Panic(BaseException):
    """What a Rust extension raises when it panics derives from BaseException."""


@pytest.mark.parametrize("is_async", [True, False])
async def test_a_panic_in_an_extension_is_the_calls_result(is_async):
    async def fail() -> str:
        """Fail badly."""
        raise Panic("rust")

    def fail_sync() -> str:
        """Fail badly."""
        raise Panic("rust")

    bad = tool(effect="read", name="fail")(fail if is_async else fail_sync)
    results = await Gate([bad, get_order]).execute([call("fail"), ToolCall("c2", "get_order", {"order_id": "A"})])
    assert "Panic" in error_of(results[0])["message"]
    assert not results[1].is_error


async def test_an_exception_whose_text_cannot_be_read_is_named():
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    document = error_of(await one(Gate([failing(Mute(), expose_errors=True)]), call("fail")))
    assert document["message"] == "The tool failed with Mute."


async def test_an_observer_that_fails_changes_nothing():
    class Broken:
        def started(self, call):
            raise ValueError

        finished = progress = started

    @tool(effect="read")
    async def work(context: CallContext) -> str:
        """Work."""
        context.report(1)
        return "done"

    results = await Gate([work]).execute([call("work"), ToolCall("c2", "nope")], observer=Broken())
    assert [result.is_error for result in results] == [False, True]


async def test_the_words_of_errors_are_sanitized_too():
    def sanitizer(text, tool):
        return text.replace("hunter2", "***")

    error = ToolError("password=hunter2", suggestion="try hunter2")
    document = error_of(await one(Gate([failing(error)], sanitizer=sanitizer), call("fail")))
    assert document == {"error": "tool_failed", "message": "password=***", "suggestion": "try ***"}
    broken = Gate([failing(error)], sanitizer=lambda text, tool: 1 / 0)
    assert "hunter2" not in (await one(broken, call("fail"))).content


async def test_a_sanitizer_that_gives_no_text_withholds_the_result():
    result = await one(Gate([get_order], sanitizer=lambda text, tool: None), call(order_id="A"))
    assert "withheld" in error_of(result)["message"]
    assert result.attempts == 1


async def test_a_result_is_sanitized_before_it_is_cut():
    @tool(effect="read")
    async def dump() -> str:
        """Dump."""
        return "x" * 95 + "sk-SECRET"

    gate = Gate([dump], sanitizer=lambda text, tool: text.replace("sk-SECRET", "*"), limits=Limits(result_chars_max=98))
    assert "sk" not in (await one(gate, call("dump"))).content


async def test_progress_that_comes_too_late_is_dropped():
    reports, contexts = [], []

    class Watcher:
        def started(self, call):
            pass

        def progress(self, call, progress, total, message):
            reports.append(progress)

        def finished(self, result):
            reports.append("finished")

    @tool(effect="read")
    async def work(context: CallContext) -> str:
        """Work."""
        contexts.append(context)
        context.report(1)
        return "done"

    await one(Gate([work]), call("work"), observer=Watcher())
    contexts[0].report(2)
    assert reports == [1, "finished"]


# Time


async def test_waiting_for_a_slot_is_bounded_by_the_run_and_the_tool_is_not_run_late():
    ran, release = [], asyncio.Event()

    @tool(effect="egress")
    async def send(to: str) -> str:
        """Send something."""
        ran.append(to)
        await release.wait()
        return "sent"

    gate = Gate([send], limits=Limits(concurrency_max=1))
    first = asyncio.create_task(one(gate, call("send", to="a")))
    while not ran:
        await let_others_run()
    late = await one(gate, call("send", to="b"), budget=Budget(Limits(run_timeout_s=0.02)))
    assert error_of(late)["error"] == "budget_exhausted"
    release.set()
    assert (await first).content == "sent"
    assert ran == ["a"]


async def test_cancelling_while_waiting_for_a_slot_gives_the_slots_back():
    release = asyncio.Event()

    @tool(effect="read", concurrency=1)
    async def work() -> str:
        """Work."""
        await release.wait()
        return "done"

    gate = Gate([work])
    first, second = (asyncio.create_task(one(gate, call("work"))) for _ in range(2))
    await let_others_run(20)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    release.set()
    assert (await first).content == "done"
    assert (await one(gate, call("work"))).content == "done"


async def test_retries_end_with_the_runs_time(no_waiting, monkeypatch):
    monkeypatch.setattr("callbox.gate.retry.RETRY_WAIT_S", 50.0)
    fetch, attempts = flaky(9, ToolError("busy", retryable=True), retries=8)
    result = await one(Gate([fetch]), call("fetch"), budget=Budget(Limits(run_timeout_s=0.05)))
    assert result.is_error
    assert len(attempts) < 9


async def test_a_timeout_names_the_seconds_it_waited():
    @tool(effect="read", timeout_s=60)
    async def wait() -> str:
        """Wait for ever."""
        await asyncio.Event().wait()

    result = await one(Gate([wait]), call("wait"), budget=Budget(Limits(run_timeout_s=0.05)))
    assert error_of(result)["error"] == "timeout"
    assert " 0 seconds" not in result.error.message


async def test_a_tool_may_call_its_own_gate_however_few_slots_there_are():
    @tool(effect="read")
    async def inner() -> str:
        """Do the inner part."""
        return "inner"

    @tool(effect="read")
    async def outer() -> str:
        """Do the outer part."""
        return (await one(gate, call("inner"))).content

    gate = Gate([inner, outer], limits=Limits(concurrency_max=1, tool_timeout_s=5))
    results = await gate.execute([ToolCall("1", "outer"), ToolCall("2", "outer")])
    assert [result.content for result in results] == ["inner", "inner"]


@pytest.mark.parametrize("limit", ["concurrency_max", "threads_max", "calls_per_run_max", "run_timeout_s"])
@pytest.mark.parametrize("value", [0, -1])
def test_limits_that_leave_nothing_are_refused(limit, value):
    with pytest.raises(ConfigurationError, match=limit):
        Limits(**{limit: value})


# Whatever runs a tool


@pytest.mark.parametrize("is_async", [True, False])
async def test_one_function_can_run_many_tools(is_async):
    async def run(name, arguments, context):
        return f"{name} {arguments['x']} for {context.user_id}"

    def run_sync(name, arguments, context):
        return f"{name} {arguments['x']} for {context.user_id}"

    definition = {
        "name": "f",
        "description": "Do something.",
        "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
    }
    toolset = Toolset.from_schemas([definition], run=run if is_async else run_sync)
    result = await one(Gate(toolset), call("f", x=3), caller=Caller(user_id="ann"))
    assert result.content == "f 3 for ann"


async def test_a_sync_function_that_returns_a_coroutine_is_awaited():
    async def answer():
        return "awaited"

    definition = {"name": "f", "description": "Do something.", "parameters": {"type": "object", "properties": {}}}
    toolset = Toolset.from_schemas([definition], run=lambda name, arguments: answer())
    assert (await one(Gate(toolset), call("f"))).content == "awaited"
