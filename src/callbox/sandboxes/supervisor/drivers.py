"""Which drivers there are, and which one a sandbox gets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from callbox.errors import HostUnsuited, SandboxError
from callbox.sandboxes.driver import Driver, Probe

_LOG = logging.getLogger("callbox.sandboxes.supervisor.drivers")


class Drivers:
    """The drivers of a supervisor, and what their probes found."""

    def __init__(self, drivers: Iterable[Driver]) -> None:
        self._drivers = {driver.name: driver for driver in drivers}
        self._probes: dict[str, Probe] = {}
        self._probing = asyncio.Lock()

    def all(self) -> list[Driver]:
        """Every driver, usable or not."""
        return list(self._drivers.values())

    def get(self, name: str) -> Driver | None:
        """The driver of that name."""
        return self._drivers.get(name)

    async def choose(self, wanted: str) -> tuple[Driver, Probe]:
        """Find the driver for a new sandbox.

        ``auto`` prefers a virtual machine with hardware support, then gVisor, then a virtual machine in software
        emulation, which is slow and by its makers' word no security boundary.

        Raises:
            HostUnsuited: None runs here; the hint has the command that helps.
        """
        if wanted != "auto":
            driver = self._drivers.get(wanted)
            if driver is None:
                raise HostUnsuited(f"This supervisor has no driver {wanted!r}.")
            probe = await self._probe(driver)
            if not probe.usable:
                raise HostUnsuited(f"The driver {wanted} does not run here: {probe.why}", hint=probe.fix or None)
            return driver, probe
        found = [(driver, await self._probe(driver)) for driver in self._drivers.values()]
        usable = sorted((each for each in found if each[1].usable), key=lambda each: _rank(*each))
        if not usable:
            reasons = " ".join(f"{driver.name}: {probe.why}" for driver, probe in found)
            fixes = " or ".join(dict.fromkeys(probe.fix for _, probe in found if probe.fix))  # two may lack the same
            raise HostUnsuited(f"No driver runs here. {reasons}", hint=fixes or "Run: callbox doctor")
        return usable[0]

    async def _probe(self, driver: Driver) -> Probe:
        async with self._probing:
            probe = self._probes.get(driver.name)
            if probe is None:
                try:
                    probe = await driver.probe()
                except (SandboxError, OSError) as error:
                    probe = Probe(usable=False, how="", secure=False, why=f"Its probe failed: {error}")
                if probe.usable:
                    # What does not run may run when somebody has repaired it; then nobody wants to restart us.
                    self._probes[driver.name] = probe
                    if not probe.secure:
                        _LOG.warning("%s (%s) is no security boundary: %s", driver.name, probe.how, probe.why)
            return probe


def _rank(driver: Driver, probe: Probe) -> int:
    if driver.name == "qemu":
        return 0 if probe.how == "kvm" else 2
    return 1
