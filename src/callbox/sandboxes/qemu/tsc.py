"""How fast the host's time stamp counter runs: under TCG a guest reads that counter and cannot measure it by itself.

Told a wrong rate, a guest's clock is wrong by the same factor, and every timeout inside with it.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path

_MEASURE_S = 0.1
_READINGS = 50
_FAMILY_KHZ = 50_000

# rdtsc; shl rdx, 32; or rax, rdx; ret: the counter as the result of a C function.
_READ_COUNTER = bytes.fromhex("0f31 48c1e220 4809d0 c3")


@functools.cache
def tsc_khz() -> int | None:
    """The rate of the counter, kHz, to some ten millionths; None where there is no such counter."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return None
    try:
        return _measured()
    except (OSError, ValueError):  # a host that lets nobody run code that was just written
        found = re.search(r"^cpu MHz\s*:\s*([\d.]+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        return round(float(found[1]) * 1_000) if found else None


def tsc_family() -> str:
    """The rate as far as saved memory depends on it: a guest goes on counting with the rate that it was told."""
    khz = tsc_khz()
    return "none" if khz is None else f"{round(khz / _FAMILY_KHZ) * _FAMILY_KHZ // 1_000} MHz"


def _measured() -> int:
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
        page.write(_READ_COUNTER)
        start = ctypes.c_char.from_buffer(page)
        read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(start))
        began = _reading(read)
        time.sleep(_MEASURE_S)
        ended = _reading(read)
        del start, read  # the page cannot be closed while somebody points into it
    return round((ended[1] - began[1]) * 1_000_000 / (ended[0] - began[0]))


def _reading(read: Callable[[], int]) -> tuple[int, int]:
    """Nanoseconds and counter of one moment: of many readings, the one that nothing came between."""
    best: tuple[int, int, int] | None = None
    for _ in range(_READINGS):
        before = time.monotonic_ns()
        counter = read()
        after = time.monotonic_ns()
        if best is None or after - before < best[0]:
            best = (after - before, (before + after) // 2, counter)
    assert best is not None
    return best[1], best[2]
