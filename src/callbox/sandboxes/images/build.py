"""Build an image from a spec: one layer per step, kept by all that went into it.

A layer's key is the hash of the key below it, the step and the content of its files; so a changed step builds that
step and what comes after it. A step runs on an overlay of the layers below it, in bubblewrap: its own mounts, processes
and capabilities like a container's, because the base may be an image from elsewhere. The network (the host's) is there
for apt and pip, not for what `run` says.
"""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from callbox.errors import ConfigurationError, HostUnsuited
from callbox.sandboxes.images.commands import need, run
from callbox.sandboxes.images.debian import host_apt_options
from callbox.sandboxes.images.furnish import BOX_ID
from callbox.sandboxes.images.spec import ImageSpec
from callbox.sandboxes.images.store import Image, ImageStore
from callbox.sandboxes.images.tree import measure, walk

RECIPE = 1
"""Changes when the same step gives another layer."""

# What a container has by default, less what needs a network or devices of its own.
_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "SETFCAP")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "proxy", "retries", "timeout")

_HOST_CA = "/etc/ssl/certs/ca-certificates.crt"
_CA = "/run/ca.pem"

_APT = """set -eu
apt-get -q update
apt-get -q install --yes --no-install-recommends -- "$@"
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log
"""
_PIP = 'exec python3 -m pip install --no-cache-dir --no-input -- "$@"'
_FILES = """set -eu
target=$1
mkdir -p "$(dirname "$target")"
if [ -d /run/source ]; then mkdir -p "$target"; cp -RP /run/source/. "$target/"; else cp -P /run/source "$target"; fi
chown -RP "$2" "$target"
"""

Progress = Callable[[str, float], None]
"""Gets what is being done, and how much of the whole is done (0 to 1)."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a build. `what`: for people; `inputs`: all that decides its outcome."""

    what: str
    script: str
    arguments: tuple[str, ...]
    inputs: str
    source: Path | None = None
    network: bool = False


def build(store: ImageStore, spec: ImageSpec, *, folder: Path, progress: Progress | None = None) -> Image:
    """Build an image and take it into the store.

    Args:
        store: Where its base is and it will be.
        spec: What to build.
        folder: Where the spec's `files` are; none outside it is read.
        progress: Is told which step runs.

    Raises:
        SandboxNotFound: The base is not in the store.
        ConfigurationError: A file is missing, or lies outside of the folder.
        HostUnsuited: Not root, or bubblewrap is missing.
        ImageError: A step failed; the message names it and has the last lines of its output.
    """
    base = store.get(spec.base)
    steps = plan(spec, folder)
    if os.geteuid() != 0:
        raise HostUnsuited(
            "Images can be built only by root.", hint="Run with sudo, or import an image built elsewhere."
        )
    if store.owners(base) is not None:
        raise HostUnsuited(f"The image {spec.base!r} was made without root.", hint="Make it again as root.")
    need("bwrap", "bubblewrap")
    env = {**base.env, **spec.env}
    layers = [base.folder / "rootfs"]
    keys: list[str] = []
    key = base.digest
    with store.building():
        for number, step in enumerate(steps, start=1):
            key = _key(key, step, env)
            found = store.layer(key)
            if progress is not None:
                said = f"Step {number} of {len(steps)}: {step.what}{' (cached)' if found else ''}"
                progress(said, (number - 1) / len(steps))
            if found is None:
                found = _run_step(store, step, key, layers, env, f"Step {number} of {len(steps)} ({step.what})")
            layers.append(found / "diff")
            keys.append(key)
        with store.scratch() as work:
            rootfs = work / "rootfs"
            _flatten(layers, rootfs)
            image = store.add(
                spec.name,
                rootfs,
                env=env,
                source=f"build:{key[:32]}",
                layers=(*base.layers, *keys),
                owners=store.owners(base),
            )
    if progress is not None:
        progress("Done", 1.0)
    return image


def plan(spec: ImageSpec, folder: Path) -> list[Step]:
    """Turn a spec into steps.

    Raises:
        ConfigurationError: A file is missing, or lies outside of the folder.
    """
    steps: list[Step] = []
    if spec.apt:
        said = json.dumps(["apt", _APT, spec.apt])
        steps.append(Step(_short("apt", spec.apt), _APT, tuple(spec.apt), said, network=True))
    if spec.pip:
        said = json.dumps(["pip", _PIP, spec.pip])
        steps.append(Step(_short("pip", spec.pip), _PIP, tuple(spec.pip), said, network=True))
    for target, name in spec.files.items():
        source = _beside(folder, name)
        owner = f"{BOX_ID}:{BOX_ID}" if target.startswith("/work/") or target == "/work" else "0:0"
        said = json.dumps(["files", _FILES, target, owner, _content(source)])
        steps.append(Step(f"files {target}", _FILES, (target, owner), said, source=source))
    steps += [Step(_short("run", [each]), each, (), json.dumps(["run", each])) for each in spec.run]
    return steps


def _key(below: str, step: Step, env: dict[str, str]) -> str:
    said = json.dumps([RECIPE, below, step.inputs, env], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def _short(kind: str, words: Sequence[str]) -> str:
    text = " ".join(" ".join(words).split())
    return f"{kind} {text}" if len(text) <= 60 else f"{kind} {text[:59]}…"


def _beside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    # A spec from elsewhere must not take this host's secrets into an image.
    if not path.is_relative_to(folder.resolve()):
        raise ConfigurationError(f"The file {name!r} lies outside of {folder}.", hint="Put it beside the spec.")
    if not path.exists():
        raise ConfigurationError(f"There is no file {name!r} in {folder}.")
    return path


def _content(source: Path) -> str:
    if source.is_dir():
        return measure(source, {}).digest
    with source.open("rb") as file:
        mode = stat.S_IMODE(source.stat().st_mode)
        return f"{hashlib.file_digest(file, 'sha256').hexdigest()} {mode:o}"


def _run_step(store: ImageStore, step: Step, key: str, layers: Sequence[Path], env: dict[str, str], what: str) -> Path:
    with store.scratch() as work:
        for name in ("upper", "work", "merged", "l"):
            (work / name).mkdir(mode=0o755)
        # Short relative names: all options of a mount must fit into one page.
        for number, layer in enumerate(layers):
            (work / "l" / str(number)).symlink_to(layer)
        lower = ":".join(f"l/{number}" for number in reversed(range(len(layers))))
        options = f"lowerdir={lower},upperdir=upper,workdir=work,redirect_dir=off,metacopy=off,index=off"
        (work / "apt.conf").write_text("\n".join([*host_apt_options(), f'Acquire::https::CAInfo "{_CA}";']) + "\n")
        inside = [*_confined(step, work, env), "/bin/sh", "-c", step.script, "step", *step.arguments]
        # The mount is in a namespace of its own: it is gone with the step's last process, whatever ends it.
        script = 'mount -t overlay -o "$1" callbox merged; shift; exec "$@"'
        argv = [need("unshare", "util-linux"), "--mount", "--propagation", "private", "sh", "-euc", script, "sh"]
        run([*argv, options, *inside], what=what, cwd=work)
        ready = work / key
        ready.mkdir(mode=0o755)
        (work / "upper").rename(ready / "diff")
        (ready / "step.json").write_text(json.dumps({"what": step.what, "inputs": step.inputs}))
        return store.add_layer(key, ready)


def _confined(step: Step, work: Path, env: dict[str, str]) -> list[str]:
    """Return the command line of bubblewrap: nothing of the host but what is named here."""
    argv = [need("bwrap", "bubblewrap"), "--bind", str(work / "merged"), "/", "--proc", "/proc", "--dev", "/dev"]
    argv += ["--tmpfs", "/run", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent", "--new-session"]
    argv += ["--chdir", "/", "--clearenv", "--cap-drop", "ALL"]
    for capability in _CAPABILITIES:
        argv += ["--cap-add", f"CAP_{capability}"]
    variables = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", **env}
    if step.source is not None:
        argv += ["--ro-bind", str(step.source), "/run/source"]
    if step.network:
        argv += ["--ro-bind", str(work / "apt.conf"), "/run/apt.conf"]
        argv += ["--ro-bind-try", str(Path("/etc/resolv.conf").resolve()), "/etc/resolv.conf"]
        # Hosts behind a proxy often have an authority of their own: what the host trusts, the step trusts.
        argv += ["--ro-bind-try", os.environ.get("SSL_CERT_FILE") or _HOST_CA, _CA]
        variables |= {"SSL_CERT_FILE": _CA, "PIP_CERT": _CA, "GIT_SSL_CAINFO": _CA}
        variables |= {"APT_CONFIG": "/run/apt.conf", "DEBIAN_FRONTEND": "noninteractive", **_host_network_settings()}
    else:
        argv += ["--unshare-net"]
    for key, value in variables.items():
        argv += ["--setenv", key, value]
    return argv


def _host_network_settings() -> dict[str, str]:
    """Return the host's proxies, and where its pip looks for packages."""
    found = {key: os.environ[key] for key in _PROXIES if key in os.environ}
    found |= {"PIP_BREAK_SYSTEM_PACKAGES": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    parser = configparser.RawConfigParser(strict=False)
    parser.read(["/etc/pip.conf", Path.home() / ".config/pip/pip.conf", Path.home() / ".pip/pip.conf"])
    for key in _PIP_SETTINGS:
        variable = f"PIP_{key.upper().replace('-', '_')}"
        value = os.environ.get(variable) or parser.get("global", key, fallback="")
        # Folders of the host are not there inside.
        words = [word for word in value.split() if not word.startswith(("file:", "/"))]
        if words:
            found[variable] = " ".join(words)
    return found


def _flatten(layers: Sequence[Path], target: Path) -> None:
    """Put layers one over the other, with hard links: nobody writes to a layer or an image, so files can be shared."""
    run([need("cp", "coreutils"), "--archive", "--link", str(layers[0]), str(target)], what="Copying the base")
    for layer in layers[1:]:
        apply_overlay(layer, target)


def apply_overlay(upper: Path, target: Path) -> None:
    """Apply an overlay's upper folder as the kernel does: character devices 0:0 hide, folders may be opaque."""
    for path, found in walk(upper):
        source, place = upper / path, target / path
        if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
            _remove(place)
        elif stat.S_ISDIR(found.st_mode):
            if place.is_symlink() or (place.exists() and (not place.is_dir() or _is_opaque(source))):
                _remove(place)
            place.mkdir(exist_ok=True)
            os.chown(place, found.st_uid, found.st_gid)
            shutil.copystat(source, place)
            for name in os.listxattr(place):
                if name.startswith("trusted.overlay."):
                    os.removexattr(place, name)
        else:
            _remove(place)
            os.link(source, place, follow_symlinks=False)


def _is_opaque(folder: Path) -> bool:
    try:
        return os.getxattr(folder, "trusted.overlay.opaque") == b"y"
    except OSError:
        return False


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
