"""Runs inside a sandbox: use up one thing, then say how it ended. `bombs.py KIND`."""

import io
import os
import sys
import time
import zipfile

SECONDS = 20.0


def fork():
    children = 0
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        try:
            if os.fork() == 0:
                time.sleep(SECONDS)
                os._exit(0)
            children += 1
        except OSError as error:
            return f"{children} processes, then {error.strerror}"
    return f"{children} processes"


def memory():
    kept = [b"x" * (1 << 20) for _ in range(1 << 16)]
    return f"{len(kept)} MiB"


def disk():
    written = 0
    block = os.urandom(1 << 20)
    try:
        with open("/work/filler", "wb", buffering=0) as file:
            while written < 1 << 40:
                written += file.write(block)
    except OSError as error:
        return f"{written >> 20} MiB, then {error.strerror}"
    finally:
        os.unlink("/work/filler")
    return f"{written >> 20} MiB"


def inodes():
    os.makedirs("/work/many", exist_ok=True)
    count = 0
    end = time.monotonic() + 3 * SECONDS
    try:
        while time.monotonic() < end:
            os.close(os.open(f"/work/many/{count}", os.O_CREAT | os.O_WRONLY))
            count += 1
    except OSError as error:
        return f"{count} files, then {error.strerror}"
    return f"{count} files in {3 * SECONDS:.0f} s, no limit met"


def descriptors():
    kept = []
    try:
        while len(kept) < 1 << 20:
            kept.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        return f"{len(kept)} descriptors, then {error.strerror}"
    return f"{len(kept)} descriptors"


def sparse():
    with open("/work/sparse", "wb") as file:
        try:
            file.truncate(1 << 40)
        except OSError as error:
            return "refused: " + error.strerror
        file.seek((1 << 40) - 1)
        file.write(b"x")
    os.unlink("/work/sparse")
    return "made"


def archive():
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("zeros", "w", force_zip64=True) as member,
    ):
        for _ in range(1024):
            member.write(bytes(1 << 20))
    try:
        with zipfile.ZipFile(packed) as archive:
            archive.extract("zeros", "/work/unpacked")
    except OSError as error:
        return f"{len(packed.getvalue()) >> 20} MiB packed, then {error.strerror}"
    finally:
        if os.path.exists("/work/unpacked/zeros"):
            os.unlink("/work/unpacked/zeros")
    return "unpacked 1 GiB"


if __name__ == "__main__":
    print(
        {f.__name__: f for f in (fork, memory, disk, inodes, descriptors, sparse, archive)}[sys.argv[1]](), flush=True
    )
