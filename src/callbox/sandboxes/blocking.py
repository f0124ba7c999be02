"""The same API without async: for scripts, notebooks, and programs with threads.

Example::

    from callbox.sandboxes.blocking import Sandbox

    with Sandbox.create("python") as box:
        print(box.run("python3 -c 'print(6*7)'").stdout)

Everything happens on one event loop in a background thread, which all sandboxes of the process share. The methods take
and return what those of the same names in `callbox.sandboxes.sandbox` do, and raise the same errors; callbacks are
called in that thread. In a coroutine, use that one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar

from callbox.sandboxes import files as _files
from callbox.sandboxes import forward as _forward
from callbox.sandboxes import output as _output
from callbox.sandboxes import pool as _pool
from callbox.sandboxes import process as _process
from callbox.sandboxes import sandbox as _sandbox
from callbox.sandboxes.background import background
from callbox.sandboxes.guest import Change
from callbox.sandboxes.home import Home
from callbox.sandboxes.opening import Leaving, Opening
from callbox.sandboxes.output import Chunk
from callbox.sandboxes.results import Forks
from callbox.sandboxes.spec import SandboxLimits, SandboxSpec

_A = TypeVar("_A")
_A_co = TypeVar("_A_co", covariant=True)
_P = ParamSpec("_P")
_R = TypeVar("_R")
_S = TypeVar("_S")
_L = TypeVar("_L", bound=Leaving)


class _Wraps(Protocol[_A_co]):
    @property
    def asynchronous(self) -> _A_co: ...


def _waits(method: Callable[Concatenate[_A, _P], Coroutine[Any, Any, _R]]) -> Callable[Concatenate[_Wraps[_A], _P], _R]:
    """The same method, which waits."""

    @functools.wraps(method)
    def wait(self: _Wraps[_A], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        return background.run(method(self.asynchronous, *args, **kwargs))

    return wait


def _makes(
    method: Callable[Concatenate[_A, _P], Coroutine[Any, Any, _R]], wrap: Callable[[_R], _S]
) -> Callable[Concatenate[_Wraps[_A], _P], _S]:
    """The same method, which waits, and wraps what it returns."""

    @functools.wraps(method)
    def make(self: _Wraps[_A], *args: _P.args, **kwargs: _P.kwargs) -> _S:
        return wrap(background.run(method(self.asynchronous, *args, **kwargs)))

    return make


def _opens(open_: Callable[_P, Opening[_L]], wrap: Callable[[_L], _S]) -> Callable[_P, _S]:
    """The same function, which opens at once, and wraps what it returns."""

    @functools.wraps(open_)
    def opened(*args: _P.args, **kwargs: _P.kwargs) -> _S:
        return wrap(background.run(_awaited(open_, *args, **kwargs)))

    return opened


def _finds(find: Callable[_P, Coroutine[Any, Any, _R]], wrap: Callable[[_R], _S]) -> Callable[_P, _S]:
    """The same function, which waits, and wraps what it returns."""

    @functools.wraps(find)
    def found(*args: _P.args, **kwargs: _P.kwargs) -> _S:
        return wrap(background.run(find(*args, **kwargs)))

    return found


async def _awaited(open_: Callable[_P, Opening[_L]], *args: _P.args, **kwargs: _P.kwargs) -> _L:
    return await open_(*args, **kwargs)


class _Wrapper(Generic[_A]):
    """Holds the asynchronous object that it stands for."""

    def __init__(self, asynchronous: _A) -> None:
        self.asynchronous = asynchronous

    def __repr__(self) -> str:
        return repr(self.asynchronous)


class _Block(_Wrapper[_L]):
    """Something with an end: a context manager."""

    def __enter__(self) -> Self:
        background.run(self.asynchronous.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        background.run(self.asynchronous.__aexit__(kind, error, trace))


class OutputReader(_Wrapper[_output.OutputReader]):
    """See `callbox.sandboxes.output.OutputReader`."""

    read = _waits(_output.OutputReader.read)

    def __iter__(self) -> Iterator[bytes]:
        return background.iterate(self.asynchronous)

    def lines(self) -> Iterator[str]:
        """Its lines as text, without their ends."""
        return background.iterate(self.asynchronous.lines())

    @property
    def offset(self) -> int:
        """Of the next byte that iterating gives."""
        return self.asynchronous.offset

    @offset.setter
    def offset(self, offset: int) -> None:
        self.asynchronous.offset = offset


class Process(_Block[_process.Process]):
    """See `callbox.sandboxes.process.Process`."""

    write = _waits(_process.Process.write)
    close_stdin = _waits(_process.Process.close_stdin)
    signal = _waits(_process.Process.signal)
    kill = _waits(_process.Process.kill)
    resize = _waits(_process.Process.resize)
    wait = _waits(_process.Process.wait)
    poll = _waits(_process.Process.poll)

    def __init__(self, asynchronous: _process.Process) -> None:
        super().__init__(asynchronous)
        self.id = asynchronous.id
        self.pid = asynchronous.pid
        self.stdout = OutputReader(asynchronous.stdout)
        self.stderr = OutputReader(asynchronous.stderr)

    def __iter__(self) -> Iterator[str]:
        return self.lines()

    def lines(self) -> Iterator[str]:
        """The lines of both outputs as text, from the first one to the end."""
        return background.iterate(self.asynchronous.lines())

    def chunks(self, *, stdout_offset: int = 0, stderr_offset: int = 0) -> Iterator[Chunk]:
        """Both outputs as they come, with offsets."""
        chunks = self.asynchronous.chunks(stdout_offset=stdout_offset, stderr_offset=stderr_offset)
        return background.iterate(chunks)


class Files(_Wrapper[_files.Files]):
    """See `callbox.sandboxes.files.Files`."""

    read = _waits(_files.Files.read)
    read_text = _waits(_files.Files.read_text)
    write = _waits(_files.Files.write)
    append = _waits(_files.Files.append)
    stat = _waits(_files.Files.stat)
    exists = _waits(_files.Files.exists)
    list = _waits(_files.Files.list)
    tree = _waits(_files.Files.tree)
    glob = _waits(_files.Files.glob)
    search = _waits(_files.Files.search)
    mkdir = _waits(_files.Files.mkdir)
    move = _waits(_files.Files.move)
    remove = _waits(_files.Files.remove)
    upload = _waits(_files.Files.upload)
    download = _waits(_files.Files.download)

    def watch(self, path: str = ".", *, recursive: bool = True) -> Iterator[Change]:
        """Changes beneath a folder, as they happen, until you leave the loop."""
        return background.iterate(self.asynchronous.watch(path, recursive=recursive))


class Forward(_Block[_forward.Forward]):
    """See `callbox.sandboxes.forward.Forward`."""

    close = _waits(_forward.Forward.aclose)

    def __init__(self, asynchronous: _forward.Forward) -> None:
        super().__init__(asynchronous)
        self.port = asynchronous.port
        self.host_port = asynchronous.host_port
        self.url = asynchronous.url


def _sandbox_of(box: _sandbox.Sandbox) -> Sandbox:
    return Sandbox(box)


def _sandboxes_of(boxes: list[_sandbox.Sandbox]) -> list[Sandbox]:
    return [Sandbox(box) for box in boxes]


def _forks_of(boxes: Forks[_sandbox.Sandbox]) -> Forks[Sandbox]:
    return Forks(_sandboxes_of(boxes), boxes.pause_ms)


def _snapshot_of(snapshot: _sandbox.Snapshot) -> Snapshot:
    return Snapshot(snapshot)


def _snapshots_of(found: list[_sandbox.Snapshot]) -> list[Snapshot]:
    return [Snapshot(snapshot) for snapshot in found]


class Sandbox(_Block[_sandbox.Sandbox]):
    """See `callbox.sandboxes.sandbox.Sandbox`. Deleted at the end of a ``with`` unless it is to be kept."""

    create = staticmethod(_opens(_sandbox.Sandbox.create, _sandbox_of))
    create_from = staticmethod(_opens(_sandbox.Sandbox.create_from, _sandbox_of))
    open = staticmethod(_opens(_sandbox.Sandbox.open, _sandbox_of))
    restore = staticmethod(_opens(_sandbox.Sandbox.restore, _sandbox_of))
    list = staticmethod(_finds(_sandbox.Sandbox.list, _sandboxes_of))

    run = _waits(_sandbox.Sandbox.run)
    spawn = _makes(_sandbox.Sandbox.spawn, Process)
    processes = _waits(_sandbox.Sandbox.processes)
    ports = _waits(_sandbox.Sandbox.ports)
    standby = _waits(_sandbox.Sandbox.standby)
    resume = _waits(_sandbox.Sandbox.resume)
    snapshot = _makes(_sandbox.Sandbox.snapshot, _snapshot_of)
    fork = _makes(_sandbox.Sandbox.fork, _forks_of)
    delete = _waits(_sandbox.Sandbox.delete)
    info = _waits(_sandbox.Sandbox.info)
    update = _waits(_sandbox.Sandbox.update)
    stats = _waits(_sandbox.Sandbox.stats)
    logs = _waits(_sandbox.Sandbox.logs)

    def __init__(self, asynchronous: _sandbox.Sandbox) -> None:
        super().__init__(asynchronous)
        self.files = Files(asynchronous.files)

    @property
    def id(self) -> str:
        """Never used again."""
        return self.asynchronous.id

    @property
    def name(self) -> str:
        """The name that it was given, else its id."""
        return self.asynchronous.name

    @property
    def state(self) -> str:
        """The state that was last heard of; `info` asks."""
        return self.asynchronous.state

    def process(self, process_id: str) -> Process:
        """A process that was started before, by its id."""
        return Process(self.asynchronous.process(process_id))

    def forward(self, port: int, host_port: int = 0) -> Forward:
        """Make a port of the sandbox reachable on this host's loopback; close it, or use it in a ``with``."""
        return Forward(background.run(_awaited(self.asynchronous.forward, port, host_port)))


class Snapshot(_Wrapper[_sandbox.Snapshot]):
    """See `callbox.sandboxes.sandbox.Snapshot`."""

    open = staticmethod(_finds(_sandbox.Snapshot.open, _snapshot_of))
    list = staticmethod(_finds(_sandbox.Snapshot.list, _snapshots_of))
    remove = _waits(_sandbox.Snapshot.remove)

    def __init__(self, asynchronous: _sandbox.Snapshot) -> None:
        super().__init__(asynchronous)
        self.id = asynchronous.id
        self.name = asynchronous.name

    def restore(self, *, name: str | None = None) -> Sandbox:
        """See `Sandbox.restore`."""
        return Sandbox(background.run(_awaited(self.asynchronous.restore, name=name)))


class Pool(_Block[_pool.Pool]):
    """See `callbox.sandboxes.pool.Pool`.

    Example::

        with Pool("python", 8) as pool, pool.take() as box:
            box.run("pytest -q")
    """

    fill = _waits(_pool.Pool.fill)

    def __init__(
        self,
        image: str = "python",
        size: int = 4,
        *,
        driver: str = "auto",
        limits: SandboxLimits | None = None,
        spec: SandboxSpec | None = None,
        home: Home | None = None,
    ) -> None:
        super().__init__(_pool.Pool(image, size, driver=driver, limits=limits, spec=spec, home=home))

    def take(self, *, name: str | None = None, keep: bool | None = None) -> Sandbox:
        """One of them, as `Sandbox.create` would give it."""
        return Sandbox(background.run(_awaited(self.asynchronous.take, name=name, keep=keep)))
