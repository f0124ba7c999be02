"""Running tools in sandboxes: one perpetual sandbox per session and image, asleep between calls."""

from __future__ import annotations

import asyncio
import builtins
import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, cast
from weakref import WeakKeyDictionary

from callbox.errors import (
    DefinitionError,
    GuestProtocolError,
    Rejected,
    SandboxError,
    SandboxExists,
    SandboxLost,
    SandboxNotFound,
    ToolError,
)
from callbox.gate.passage import SessionContext
from callbox.gate.runners.worker_link import BoxGone, Call, WorkerLink
from callbox.ids import new_id
from callbox.sandboxes.home import Home
from callbox.sandboxes.sandbox import Sandbox
from callbox.sandboxes.spec import Lifetime, SandboxLimits, SandboxSpec
from callbox.tools.call_context import CallContext
from callbox.tools.sandbox_binding import SandboxBinding, SandboxPlace
from callbox.tools.tool import Tool
from callbox.values import JsonObject

log = logging.getLogger("callbox.gate.sandbox")

GATE_TTL_IDLE_S = 86_400.0
"""Seconds without a call after which the sandbox of a gate is deleted, whose program never closed it."""

LINKS_MAX = 1_024
"""Sessions whose sandbox one event loop remembers; the others are found again by name."""

OPEN_TRIES_MAX = 4
"""Times that a sandbox is looked for and made, while others make, delete or lose it."""

TEXT_CHARS_MAX = 8_000
"""Characters of one text that comes out of a sandbox beside a result."""

_SESSION_LABEL = "callbox.session"


class SandboxRunner:
    """Runs `SandboxBinding`.

    Calls of a session share a sandbox per image, which is kept. Calls without a session share one per gate (and tenant
    and user), which is deleted when the gate is closed.

    Args:
        home: Which installation of sandboxes; None: the default one, looked up at each call.
    """

    def __init__(self, home: Home | None = None) -> None:
        self._home = home
        self._id = new_id("gate")
        # A connection belongs to the event loop that opened it, and one gate may serve several loops in turn.
        self._links: WeakKeyDictionary[asyncio.AbstractEventLoop, OrderedDict[str, _Box]] = WeakKeyDictionary()
        self._own: dict[str, Home] = {}

    async def run(self, tool: Tool, arguments: JsonObject, context: Callable[[], CallContext]) -> Any:
        """See `Runner.run`.

        Raises:
            SandboxLost: The worker or its machine died under the call; it may or may not have had its effect.
            SandboxError: There is no such image, the host cannot run sandboxes, ...
        """
        binding = tool.binding
        assert isinstance(binding, SandboxBinding)
        named = binding.convert(arguments) if binding.convert is not None else arguments
        made = context()
        call = Call(
            key=f"{made.idempotency_key}:{made.attempt}",
            shipment=binding.source.shipment(),
            arguments=named,
            context=_context(made),
            context_parameter=binding.context_parameter,
            progress=lambda told: _report(made, told),
        )
        box = self._box(binding.place, made)
        for tries_left in reversed(range(OPEN_TRIES_MAX)):
            try:
                outcome = await (await box.link()).call(call)
                break
            except BoxGone:
                box.forget()
                if not tries_left:
                    raise SandboxLost("The sandbox is deleted again and again.") from None
        else:
            raise AssertionError("the last try breaks or raises")
        return _value(outcome, tool)

    async def aclose(self) -> None:
        """See `Runner.aclose`. Deletes the sandboxes of calls without a session."""
        while self._own:
            name, home = self._own.popitem()
            try:
                box = await Sandbox.open(name, home=home)
                await box.delete()
            except SandboxNotFound:
                continue
            except SandboxError as error:
                # Closing is not the place to fail: its time to live deletes it.
                log.warning("Sandbox %s of a closed gate could not be deleted: %s", name, error)

    def _box(self, place: SandboxPlace, context: CallContext) -> _Box:
        home = self._home or Home.default()
        is_own = False
        if isinstance(context, SessionContext):
            owner = life_mark(context.life)
        elif context.session_id is not None:
            owner = session_mark(context.tenant_id, context.session_id)
        else:
            is_own = True
            # Two tenants or users of one gate must not meet in its sandbox.
            owner = _digest("gate", self._id, context.tenant_id, context.user_id)
        name = f"tools-{_digest(owner, place.image)}"
        if is_own:
            self._own[name] = home
        links = self._links.setdefault(asyncio.get_running_loop(), OrderedDict())
        # The place too: another home is another sandbox of that name.
        key = f"{home.root}:{name}"
        if key not in links:
            links[key] = _Box(_spec(name, owner, place, is_own=is_own), home)
            while len(links) > LINKS_MAX:
                links.popitem(last=False)
        links.move_to_end(key)
        return links[key]


class _Box:
    """One sandbox by its name: found or made when it is first needed, and again when it was deleted."""

    def __init__(self, spec: SandboxSpec, home: Home) -> None:
        self._spec = spec
        self._home = home
        self._link: WorkerLink | None = None
        self._opening = asyncio.Lock()

    def forget(self) -> None:
        """It is gone; another one takes its place."""
        self._link = None

    async def link(self) -> WorkerLink:
        """Its worker."""
        async with self._opening:
            if self._link is None:
                self._link = WorkerLink((await self._open()).target)
            return self._link

    async def _open(self) -> Sandbox:
        name = cast("str", self._spec.name)
        for tries_left in reversed(range(OPEN_TRIES_MAX)):
            try:
                return await Sandbox.open(name, home=self._home)
            except SandboxNotFound:
                pass
            try:
                return await Sandbox.create_from(self._spec, home=self._home)
            except (SandboxExists, SandboxLost):
                # Another program was faster, or the supervisor died and nobody knows whether it was made: look again.
                if not tries_left:
                    raise
        raise AssertionError("the last try returns or raises")


async def delete_session_sandboxes(tenant: str | None, session: str, *, home: Home | None = None) -> int:
    """Delete the sandboxes of calls that a gate was given with ``Caller(tenant_id=tenant, session_id=session)``.

    Those of a durable session go with it: `Session.erase`.

    Returns:
        How many there were.
    """
    return await delete_marked_sandboxes(session_mark(tenant, session), home=home)


async def delete_marked_sandboxes(mark: str, *, home: Home | None = None) -> int:
    """Delete all sandboxes with a mark: their memory, their files, their snapshots of standby. Returns how many."""
    home = home or Home.default()
    if not await asyncio.to_thread(home.sandboxes.exists):
        return 0  # there never was one; no supervisor needs to be started to say so
    boxes = await Sandbox.list(labels={_SESSION_LABEL: mark}, home=home)
    for box in boxes:
        await box.delete()
    return len(boxes)


def session_mark(tenant: str | None, session: str) -> str:
    """What stands for a session of a caller in names and labels: its own id may be a customer's."""
    return _digest("caller", tenant, session)


def life_mark(life: str) -> str:
    """What stands for a durable session. Not its id: the next session of that id would find this one's memory."""
    return _digest("life", life)


def check_places(tools: Iterable[Tool]) -> None:
    """Refuse tools that cannot be sent, or that want one sandbox in two ways.

    Raises:
        DefinitionError: With the tool's name.
    """
    places: dict[str, tuple[SandboxPlace, str]] = {}
    for tool in tools:
        binding = tool.binding
        if not isinstance(binding, SandboxBinding):
            continue
        binding.source.shipment()
        place, other = places.setdefault(binding.place.image, (binding.place, tool.name))
        if place != binding.place:
            raise DefinitionError(
                f"Tools {other!r} and {tool.name!r} share the sandbox of image {place.image!r} with different options.",
                hint="Give both the same SandboxPlace, or use two images.",
            )


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]


def _spec(name: str, owner: str, place: SandboxPlace, *, is_own: bool) -> SandboxSpec:
    ttl_idle_s = min(place.ttl_idle_s, GATE_TTL_IDLE_S) if is_own else place.ttl_idle_s
    return SandboxSpec(
        image=place.image,
        driver=place.driver,
        name=name,
        limits=SandboxLimits(memory_mb=place.memory_mb),
        lifetime=Lifetime(idle_s=place.idle_s, ttl_idle_s=ttl_idle_s),
        labels={_SESSION_LABEL: owner},
    )


def _context(context: CallContext) -> JsonObject:
    """What goes inside. Not `state`: it is an object of this process."""
    return {
        "call_id": context.call_id,
        "tool": context.tool,
        "idempotency_key": context.idempotency_key,
        "attempt": context.attempt,
        "run_id": context.run_id,
        "session_id": context.session_id,
        "user_id": context.user_id,
        "tenant_id": context.tenant_id,
        "scopes": sorted(context.scopes),
        "remaining_s": context.remaining_s(),
    }


def _report(context: CallContext, told: Any) -> None:
    """Pass progress on, if that is what it is: whatever runs inside may say anything."""
    if not isinstance(told, list) or len(cast("list[Any]", told)) != 3:
        return
    progress, total, message = cast("list[Any]", told)
    is_number = type(progress) in (int, float) and type(total) in (int, float, type(None))
    if is_number and (message is None or isinstance(message, str)):
        context.report(progress, total, None if message is None else message[:TEXT_CHARS_MAX])


class RemoteFailure(Exception):
    """An exception that a tool raised in a sandbox. Its class is made for it, with the name of the one inside."""

    def __init__(self, text: str) -> None:
        # Not the next __init__: that of a UnicodeDecodeError, say, wants five arguments.
        self.args = (text,)
        self._text = text

    def __str__(self) -> str:
        return self._text


def _value(outcome: JsonObject, tool: Tool) -> Any:
    """What the tool returned; raises what it raised. Nothing of it is believed to be of its type."""
    if isinstance(outcome.get("result"), str):
        try:
            return json.loads(outcome["result"])
        except (ValueError, RecursionError):
            raise GuestProtocolError("The result of a tool in a sandbox is no JSON.") from None
    if "error" in outcome:
        message, suggestion = _text(outcome.get("message")) or "The tool failed.", _text(outcome.get("suggestion"))
        if outcome["error"] == "Rejected":
            raise Rejected(message, path=_text(outcome.get("path")), suggestion=suggestion)
        raise ToolError(message, retryable=outcome.get("retryable") is True, suggestion=suggestion)
    if "failed" in outcome:
        failure = _failure(_text(outcome["failed"]) or "", _text(outcome.get("text")) or "")
        if outcome.get("unloadable") is True:
            error: Exception = DefinitionError(
                f"Tool {tool.name!r} cannot be loaded in its sandbox: {type(failure).__name__}: {failure}.",
                hint="What it imports must be in the image.",
            )
        else:
            error = failure
        error.add_note(f"In the sandbox:\n{_text(outcome.get('details')) or ''}")
        raise error
    if "stopped" in outcome:
        raise ToolError("The call was stopped.")
    raise GuestProtocolError("The outcome of a tool in a sandbox is of no known kind.")


def _text(value: Any) -> str | None:
    return value[:TEXT_CHARS_MAX] if isinstance(value, str) else None


def _failure(name: str, text: str) -> Exception:
    """An exception of that name, so that logs and ``retry_on=ConnectionError`` know it."""
    if not name.isidentifier() or len(name) > 100:
        name = "Exception"
    base = getattr(builtins, name, None)
    bases: tuple[type[BaseException], ...] = (RemoteFailure,)
    # Only what is an error: a SystemExit or KeyboardInterrupt inside must not end this process.
    if isinstance(base, type) and issubclass(base, Exception) and not issubclass(base, _NOT_REMADE):
        bases = (RemoteFailure, base)
    return cast("Exception", type(name, bases, {"__module__": "sandbox"})(text))


_NOT_REMADE = (StopIteration, StopAsyncIteration, ExceptionGroup)
