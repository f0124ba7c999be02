"""Sandboxes that wait, booted, for a burst."""

from __future__ import annotations

from dataclasses import asdict, replace
from types import TracebackType
from typing import Self

from callbox.errors import ConfigurationError
from callbox.sandboxes.client import Client
from callbox.sandboxes.home import Home
from callbox.sandboxes.opening import Opening
from callbox.sandboxes.sandbox import Sandbox
from callbox.sandboxes.spec import SandboxLimits, SandboxSpec

SIZE_MAX = 64
"""Machines that one pool may keep ready."""


class Pool:
    """Keeps `size` machines of one kind booted and asleep, so that taking one costs milliseconds.

    What is taken is replaced in the background. A sandbox that was taken is yours: delete it, or take it with
    ``async with``. At the end of the pool's block those that nobody took are given up.

    Example::

        async with Pool("python", 8) as pool:
            async with pool.take() as box:
                await box.run("pytest -q")
            box = await pool.take()

    Args:
        image: Name of an image.
        size: How many wait.
        driver: As of `Sandbox.create`.
        limits: As of `Sandbox.create`; a machine waits for sandboxes of exactly these.
        spec: All that each sandbox is asked for, instead of the three above; without a name.
        home: Which installation.
    """

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
        if not 1 <= size <= SIZE_MAX:
            raise ConfigurationError(f"A pool of {size} cannot be.", hint=f"Use 1 to {SIZE_MAX}.")
        self._spec = spec or SandboxSpec(image=image, driver=driver, limits=limits or SandboxLimits())
        if self._spec.name is not None:
            raise ConfigurationError("The sandboxes of a pool cannot all have one name.", hint="Give it to take().")
        self._home = home
        self.size = size

    def take(self, *, name: str | None = None, keep: bool | None = None) -> Opening[Sandbox]:
        """One of them, as `Sandbox.create` would give it; a new one is booted if none is left."""
        return Sandbox.create_from(replace(self._spec, name=name), keep=keep, home=self._home)

    async def fill(self, size: int | None = None) -> int:
        """Ask for `size` waiting machines (None: the pool's); returns how many wait already."""
        size = self.size if size is None else size
        reply = await Client.of(self._home).call("pool.set", repeat=True, spec=asdict(self._spec), size=size)
        return reply["ready"]

    async def __aenter__(self) -> Self:
        await self.fill()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.fill(0)
