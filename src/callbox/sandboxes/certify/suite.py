"""Run the checks, one after the other, and say what each found."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from callbox.errors import CallboxError
from callbox.sandboxes.certify import exhaustion, faults, files, identity, kernel
from callbox.sandboxes.certify.check import Broken, Check, Finding, NotOffered, Verdict
from callbox.sandboxes.certify.ground import Ground, open_ground
from callbox.sandboxes.images.store import ImageStore

_log = logging.getLogger("callbox.certify")

CHECKS: tuple[Check, ...] = (*kernel.CHECKS, *files.CHECKS, *identity.CHECKS, *exhaustion.CHECKS, *faults.CHECKS)


async def certify(
    images: Path, driver: str, *, image: str = "python", scale: float = 1.0, checks: Sequence[Check] = CHECKS
) -> AsyncIterator[Finding]:
    """Attack a driver on this host, in a home of its own.

    Args:
        images: The folder of images.
        driver: ``"gvisor"`` or ``"qemu"``.
        image: An image with Python.
        scale: Size of the bombs; 1.0 is 10 GiB of output.
        checks: Which; all by default.

    Raises:
        SandboxNotFound: There is no such image.

    Yields:
        One finding per check, in order, as each ends. After the last, one that says whether anything was left behind.
    """
    ImageStore(images).get(image)
    async with open_ground(images, driver, image, scale) as ground:
        for check in checks:
            yield await _run(ground, check)
        ground_left = ground
    begun = time.monotonic()
    left = ground_left.leftovers()
    verdict = Verdict.FAILED if left else Verdict.HELD
    yield Finding(
        "faults",
        "nothing is left on the host",
        verdict,
        "; ".join(left) or "no process, mount or loop device",
        time.monotonic() - begun,
    )


async def _run(ground: Ground, check: Check) -> Finding:
    begun = time.monotonic()
    try:
        async with asyncio.timeout(check.deadline_s):
            detail = await check.run(ground)
        verdict = Verdict.HELD
    except NotOffered as error:
        verdict, detail = Verdict.NOT_OFFERED, str(error)
    except Broken as error:
        verdict, detail = Verdict.FAILED, str(error)
    except CallboxError as error:
        verdict, detail = Verdict.FAILED, f"{type(error).__name__}: {error}"
    except TimeoutError:
        verdict, detail = Verdict.FAILED, f"no end within {check.deadline_s:.0f} s"
    except Exception as error:  # noqa: BLE001 - whatever breaks a check, it did not hold
        _log.exception("%s", check.name)
        verdict, detail = Verdict.FAILED, f"{type(error).__name__}: {error}"
    return Finding(check.group, check.name, verdict, detail, time.monotonic() - begun)
