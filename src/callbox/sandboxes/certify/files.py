"""Leave the folders that the file API is confined to."""

from __future__ import annotations

import tempfile
from pathlib import Path

from callbox.errors import ConfigurationError, GuestError, PathEscapes
from callbox.sandboxes.certify.check import Broken, Check, expect
from callbox.sandboxes.certify.ground import Ground

_PATHS = (
    "../etc/passwd",
    "/etc/passwd",
    "/work/../etc/passwd",
    "/proc/self/root/etc/passwd",
    "/dev/null",
    "a/../../etc/passwd",
)


async def paths(ground: Ground) -> str:
    """Read and write through `..`, absolute paths and NUL."""
    async with ground.box() as box:
        for path in _PATHS:
            for attempt in (box.files.read(path), box.files.write(path, b"x")):
                try:
                    await attempt
                except GuestError as error:
                    expect(isinstance(error, PathEscapes), f"{path!r} was refused as {error.guest_code}")
                else:
                    raise Broken(f"{path!r} was let through")
        try:
            await box.files.read("a\0b")
        except (GuestError, ConfigurationError):
            pass
        else:
            raise Broken("a path with NUL was let through")
    return f"{2 * len(_PATHS) + 1} attempts refused"


async def links(ground: Ground) -> str:
    """Read and write through symlinks to outside, and a hardlink to what is not ours."""
    async with ground.box() as box:
        await box.run(
            "ln -s /etc out; ln -s /etc/shadow shadow; ln -s ../../etc up; mkdir d; ln -s / d/root; ln /etc/shadow hard"
        )
        for path in ("out/passwd", "shadow", "up/passwd", "d/root/etc/passwd"):
            for attempt in (box.files.read(path), box.files.write(path, b"x")):
                try:
                    await attempt
                except PathEscapes:
                    continue
                except GuestError as error:
                    expect(error.guest_code in ("permission_denied", "not_found"), f"{path!r}: {error.guest_code}")
                else:
                    kind = (await box.run(["stat", "-c", "%F", path.split("/")[0]])).stdout.strip()
                    expect(path == "shadow" and kind == "regular file", f"{path!r} was let through")
        try:
            secret = await box.files.read("hard")
        except GuestError:
            secret = b""
        expect(b"root:" not in secret, "a hardlink to /etc/shadow was read")
        expect((await box.run("cat /etc/hostname", user="root")).stdout.strip() != "x", "a file outside was written")
    return "symlinks and hardlinks refused"


async def race(ground: Ground) -> str:
    """Swap a folder and a symlink to /etc as fast as the sandbox can, while the host reads through it."""
    async with ground.box() as box:
        await box.run("mkdir real && echo mine > real/passwd && ln -s /etc link")
        swapper = await box.spawn(
            "while :; do mv -T real t; mv -T link real; mv -T real link; mv -T t real; done 2>/dev/null"
        )
        read = 0
        for _ in range(300):
            try:
                content = await box.files.read("real/passwd")
            except GuestError:
                continue
            read += 1
            expect(b"root:" not in content, "the race was won: /etc/passwd was read")
        await swapper.kill()
    return f"300 reads, {read} of the folder's own file, 0 of /etc"


async def download(ground: Ground) -> str:
    """Copy files to the host: a link inside leads nowhere, a link on the host is not written through."""
    async with ground.box() as box:
        await box.run("echo inside > a && ln -s /etc/passwd link && mkfifo pipe")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "precious").write_text("precious")
            (folder / "planted").symlink_to(folder / "precious")
            await box.files.download("a", folder / "planted")
            expect((folder / "precious").read_text() == "precious", "a link on the host was written through")
            for path in ("link", "pipe", "/dev/zero"):
                try:
                    await box.files.download(path, folder / "copy")
                except GuestError:
                    continue
                raise Broken(f"{path!r} was copied")
            expect(sorted(each.name for each in folder.iterdir()) == ["planted", "precious"], "something else was left")
    return "links, FIFOs and devices refused; nothing left on the host"


async def archive(ground: Ground) -> str:
    """A tar with `..` members, unpacked inside, writes nothing outside the user's own folders."""
    async with ground.box() as box:
        made = (
            "import tarfile,io\n"
            "t=tarfile.open('/work/evil.tar','w')\n"
            "for n in ('../../etc/evil','/etc/evil2'):\n"
            " i=tarfile.TarInfo(n); i.size=1; t.addfile(i,io.BytesIO(b'x'))\n"
            "t.close()"
        )
        await box.run(["python3", "-c", made])
        await box.run("tar -P -xf evil.tar")
        found = (await box.run("ls /etc/evil /etc/evil2 2>/dev/null")).stdout
        expect(found == "", f"written: {found}")
    return "nothing was written outside"


CHECKS = (
    Check("files", "`..`, absolute paths and NUL are refused", paths),
    Check("files", "symlinks and hardlinks lead nowhere", links),
    Check("files", "a symlink race is never won", race, 240),
    Check("files", "what comes to the host is what was asked for, where it was asked for", download),
    Check("files", "a hostile tar unpacked by the workload changes nothing of the system", archive),
)
