"""Debian root file systems, made with mmdebstrap from the host's own sources and proxies: the image ``python``."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import pwd
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from callbox.errors import HostUnsuited, ImageError, SandboxNotFound
from callbox.sandboxes.images.commands import capture, need, run
from callbox.sandboxes.images.store import Image, ImageStore
from callbox.sandboxes.images.unpack import unpack_tar

PYTHON_PACKAGES = (
    "ca-certificates",
    "git",
    "python-is-python3",
    "python3",
    "python3-coverage",
    "python3-pip",
    "python3-pytest",
)

ENV = {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "PATH": "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"}

DEFAULT_SUITE = "bookworm"
"""Where the host is not Debian itself."""

RECIPE = 1
"""Changes when the same packages give another tree."""

# Licences stay: /usr/share/doc/*/copyright.
_DPKG_OPTIONS = (
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/bug/*",
)

# /tmp of the tree is left alone: mmdebstrap keeps the file there that APT_CONFIG names. Without it, the last thing that
# mmdebstrap does, an `apt-get update` with no sources, would empty the package lists of the HOST.
# Runs on the host with the tree in $1, as root (or as what mmdebstrap made root): only chroot runs things of the tree.
_CUSTOMIZE = r"""set -eu
chroot "$1" groupadd --gid 1000 box
chroot "$1" useradd --uid 1000 --gid 1000 --home-dir /work --no-create-home --shell /bin/bash box
mkdir -p "$1/work"
chown 1000:1000 "$1/work"
printf 'sandbox\n' > "$1/etc/hostname"
printf '127.0.0.1\tlocalhost\n127.0.1.1\tsandbox\n::1\tlocalhost ip6-localhost\n' > "$1/etc/hosts"
: > "$1/etc/resolv.conf"
: > "$1/etc/machine-id"
# The whole machine is one project's: pip need not be told so each time.
printf '[global]\nbreak-system-packages = true\n' > "$1/etc/pip.conf"
printf 'root-user-action = ignore\ndisable-pip-version-check = true\n' >> "$1/etc/pip.conf"
rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap" "$1"/var/cache/debconf/*-old "$1"/var/lib/dpkg/*-old "$1"/etc/*-
rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/* "$1"/var/cache/ldconfig/aux-cache
rm -rf "$1"/var/log/* "$1"/run/*
"""

_PHASES = (
    ("I: running apt-get update", "Reading package lists", 0.03),
    ("I: downloading packages", "Fetching packages", 0.06),
    ("I: extracting archives", "Unpacking the base", 0.25),
    ("I: installing essential", "Installing the base", 0.30),
    ("I: installing remaining", "Installing Python and tools", 0.45),
    ("I: running --customize", "Making it small", 0.90),
    ("I: cleaning package", "Making it small", 0.92),
)

Progress = Callable[[str, float], None]
"""Gets what is being done, and how much of the whole is done (0 to 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What a Debian root file system is made of.

    Attributes:
        packages: Beside the essential ones.
        suite: Debian's release; None: the host's, or `DEFAULT_SUITE`.
        mirrors: URLs or sources files, instead of the host's sources.
    """

    packages: Sequence[str] = PYTHON_PACKAGES
    suite: str | None = None
    mirrors: Sequence[str] = ()

    def source(self) -> str:
        """Name everything that decides what the tree is made of, so that a second run finds it made."""
        said = [RECIPE, sorted(self.packages), self.suite or host_suite() or DEFAULT_SUITE, list(self.mirrors)]
        mark = hashlib.sha256(json.dumps([said, _CUSTOMIZE, _DPKG_OPTIONS, platform.machine()]).encode()).hexdigest()
        return f"debian:{mark[:32]}"


def ensure_python(
    store: ImageStore,
    *,
    name: str = "python",
    base: Base | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> tuple[Image, bool]:
    """Make the default image, unless it is there.

    Returns:
        The image, and whether it was made now.

    Raises:
        HostUnsuited: mmdebstrap is missing, or may not run here.
        ImageError: It failed; the last lines of its output are in the message.
    """
    base = base or Base()
    if not force:
        try:
            image = store.get(name)
            if image.source == base.source():
                return image, False
        except (SandboxNotFound, ImageError):
            pass
    with store.scratch() as work:
        owners = bootstrap(work / "rootfs", base, work=work, progress=progress)
        _say(progress, "Writing the image's disk", 0.95)
        image = store.add(name, work / "rootfs", env=ENV, source=base.source(), owners=owners)
    _say(progress, "Done", 1.0)
    return image, True


def bootstrap(
    target: Path, base: Base, *, work: Path, progress: Progress | None = None
) -> dict[str, tuple[int, int]] | None:
    """Make a Debian root file system in the folder `target`, which must not exist.

    Args:
        target: The folder to make.
        base: What to put into it.
        work: Folder for temporary files.
        progress: Is told how far it is.

    Returns:
        None as root; else who owns what (without root, all files on the host are ours).
    """
    mmdebstrap = need("mmdebstrap", "mmdebstrap")
    need("mke2fs", "e2fsprogs")
    root = os.geteuid() == 0
    if not root:
        _check_unshare()
    suite = base.suite or host_suite() or DEFAULT_SUITE
    sources = list(base.mirrors) or host_sources(suite, work)
    made = target if root else work / "rootfs.tar"
    argv = [mmdebstrap, "--variant=minbase", f"--mode={'root' if root else 'unshare'}", "--verbose"]
    # Our hook removes lists and caches; apt need not run once more for it, on a host that is not ours.
    argv += ["--skip=cleanup/apt"]
    argv += [f"--format={'directory' if root else 'tar'}"]
    argv += [f"--include={','.join(base.packages)}"] if base.packages else []
    argv += [f"--dpkgopt={option}" for option in _DPKG_OPTIONS]
    argv += [f"--aptopt={line}" for line in host_apt_options()]
    argv += [f"--customize-hook={_CUSTOMIZE}", suite, str(made), *sources]
    env = {**os.environ, "LC_ALL": "C.UTF-8", "TMPDIR": str(work) if root else os.environ.get("TMPDIR", "/tmp")}  # noqa: S108
    env["PATH"] = env.get("PATH", "") + ":/usr/sbin:/sbin"
    run(argv, what="Making the base system (mmdebstrap)", env=env, on_line=_Follower(progress))
    if root:
        _empty(target / "dev")
        return None
    owners = unpack_tar(made, target)
    made.unlink()
    _empty(target / "dev")
    return owners


def host_suite() -> str | None:
    """Return the release of the host's Debian; None where the host is something else."""
    try:
        found = platform.freedesktop_os_release()
    except OSError:
        return None
    return found.get("VERSION_CODENAME") if found.get("ID") == "debian" else None


def host_sources(suite: str, work: Path, *, apt: Path = Path("/etc/apt")) -> list[str]:
    """Collect the host's own sources of a release into files that mmdebstrap takes; other repositories are left out.

    Args:
        suite: The release, like ``"bookworm"``; its updates and security archives belong to it.
        work: Folder for the files.
        apt: Where the host configures apt.

    Returns:
        Paths; none where the host has no such sources, so that mmdebstrap uses Debian's own default.
    """
    ours = {suite, f"{suite}-updates", f"{suite}-security"}
    stanzas: list[str] = []
    lines: list[str] = []
    parts = apt / "sources.list.d"
    for path in [apt / "sources.list", *(sorted(parts.iterdir()) if parts.is_dir() else [])]:
        if not path.is_file():
            continue
        if path.suffix == ".sources":
            stanzas += [each for each in re.split(r"\n\s*\n", path.read_text()) if _stanza_suites(each) & ours]
        elif path.suffix == ".list":
            lines += [each for each in path.read_text().splitlines() if _line_suite(each) in ours]
    found: list[str] = []
    if stanzas:
        (work / "host.sources").write_text("\n\n".join(stanzas) + "\n")
        found.append(str(work / "host.sources"))
    if lines:
        (work / "host.list").write_text("\n".join(lines) + "\n")
        found.append(str(work / "host.list"))
    return found


def host_apt_options() -> list[str]:
    """Return the lines of the host's apt configuration that say how to fetch: proxies, retries, date checks."""
    try:
        text = capture([need("apt-config", "apt"), "dump"], what="Reading apt's configuration")
    except (HostUnsuited, ImageError):
        return []
    wanted = re.compile(r'^Acquire::(https?(::|")|Retries|Check-|ForceIPv)[^\n]* "[^"\n]+";$')
    return [line for line in text.splitlines() if wanted.match(line)]


def _stanza_suites(stanza: str) -> set[str]:
    fields: Mapping[str, str] = {
        key.strip().lower(): value
        for key, _, value in (line.partition(":") for line in stanza.splitlines() if not line.startswith("#"))
    }
    if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").strip().lower() == "no":
        return set()
    if "main" not in fields.get("components", "").split():
        return set()
    return set(fields.get("suites", "").split())


def _line_suite(line: str) -> str:
    found = re.match(r"deb\s+(?:\[[^\]]*\]\s+)?\S+\s+(\S+)\s+(?:\S+\s+)*?main\b", line)
    return found[1] if found else ""


def _check_unshare() -> None:
    need("newuidmap", "uidmap")
    try:
        run([need("unshare", "util-linux"), "--user", "--map-root-user", "true"], what="Making a user namespace")
    except ImageError as error:
        raise HostUnsuited(
            "This host does not let ordinary users make user namespaces.",
            hint="Run callbox setup as root, or: sysctl kernel.unprivileged_userns_clone=1",
        ) from error
    user = str(os.getuid())
    try:
        lines = Path("/etc/subuid").read_text().splitlines()
    except OSError:
        lines = []
    names = {user, _user_name()}
    if not any(line.split(":")[0] in names for line in lines):
        raise HostUnsuited(
            "Your user has no subordinate ids.",
            hint=f"Run as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {_user_name()}",
        )


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _empty(folder: Path) -> None:
    for each in folder.iterdir():
        run([need("rm", "coreutils"), "-rf", "--one-file-system", str(each)], what="Emptying /dev")


def _say(progress: Progress | None, what: str, share: float) -> None:
    if progress is not None:
        progress(what, share)


class _Follower:
    """Turns mmdebstrap's lines into progress."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._what = "Starting"
        self._share = 0.0
        self._ends_at = 0.0

    def __call__(self, line: str) -> None:
        for number, (prefix, what, share) in enumerate(_PHASES):
            if line.startswith(prefix):
                self._what, self._share = what, max(self._share, share)
                self._ends_at = _PHASES[min(number + 1, len(_PHASES) - 1)][2]
        if line.startswith(("Get:", "Setting up ", "Unpacking ", "I: extracting")):
            # How many there will be is not known: each takes a fortieth of what is left of its phase.
            self._share += max(0.0, self._ends_at - self._share) / 40
        _say(self._progress, self._what, self._share)
