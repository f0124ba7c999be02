"""What a sandbox of runsc is given, and what is said where none can run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from callbox.errors import HostUnsuited, SandboxError
from callbox.sandboxes.driver import MachineSpec, RootImage
from callbox.sandboxes.gvisor import control, runsc
from callbox.sandboxes.gvisor.bundle import AGENT_AT, oci_config
from callbox.sandboxes.gvisor.driver import GvisorDriver
from callbox.sandboxes.gvisor.runsc import Runsc
from callbox.sandboxes.spec import SandboxLimits


def test_bundle_mounts_nothing_of_the_host_but_the_agent_and_the_private_disk(tmp_path: Path) -> None:
    image = RootImage(digest="1" * 64, rootfs=tmp_path / "image", disk=None)
    spec = MachineSpec(machine_id="2" * 32, image=image, limits=SandboxLimits(), place=tmp_path)
    layer = tmp_path / "run" / "disk"
    config = oci_config(spec, agent=tmp_path / "agent", rootfs=tmp_path / "root", tmp=layer / "tmp", env={"A": "b"})
    binds = {each["destination"]: each for each in config["mounts"] if each["type"] == "bind"}
    assert {at: each["source"] for at, each in binds.items()} == {
        AGENT_AT: str(tmp_path / "agent"),
        "/tmp": str(layer / "tmp"),
    }
    assert "ro" in binds[AGENT_AT]["options"]
    assert all(any("size=" in o for o in m["options"]) for m in config["mounts"] if m["type"] == "tmpfs")
    assert "A=b" in config["process"]["env"]
    assert {each["type"] for each in config["linux"]["namespaces"]} >= {"pid", "network", "mount"}
    assert "CAP_NET_ADMIN" not in config["process"]["capabilities"]["bounding"]


def test_only_flags_that_this_runsc_understands_are_used(tmp_path: Path) -> None:
    old = Runsc("/bin/runsc", "old", frozenset({"root", "file-access"}))
    new = Runsc("/bin/runsc", "new", frozenset({"root", "file-access", "overlay2"}))
    assert "--overlay2=none" not in old.command(tmp_path, "ptrace", tmp_path, ["list"])
    assert "--overlay2=none" in new.command(tmp_path, "systrap", tmp_path, ["list"])
    assert new.command(tmp_path, "systrap", tmp_path, ["list"])[-1] == "list"


async def test_missing_runsc_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runsc, "_SEARCH", str(tmp_path))
    probe = await GvisorDriver(cache=tmp_path / "cache").probe()
    assert not probe.usable
    assert probe.fix == "Run: apt-get install runsc"
    with pytest.raises(HostUnsuited, match="not installed"):
        await runsc.find_runsc()


async def test_ordinary_user_is_told_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        await runsc.find_runsc()
    except HostUnsuited as error:
        pytest.skip(str(error))
    monkeypatch.setattr(os, "geteuid", lambda: 65_534)
    probe = await GvisorDriver(cache=tmp_path / "cache").probe()
    assert not probe.usable
    assert "root" in probe.why
    assert probe.fix


_IMPOSTOR = """
import socket, sys
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1].join(("\\0", "\\0")))
    listener.listen()
    print("listening", flush=True)
    while True:
        with listener.accept()[0] as connection:
            said, handles, _, _ = socket.recv_fds(connection, 4096, 4)
            print(len(said), len(handles), flush=True)
"""


def test_nothing_is_said_or_given_to_a_listener_that_is_not_the_machine(tmp_path: Path) -> None:
    container = f"{uuid.uuid4().hex}-0"
    memory = tmp_path / "checkpoint.img"
    memory.write_text("memory")
    command = [sys.executable, "-c", _IMPOSTOR, f"runsc-sandbox.{container}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as impostor:
        assert impostor.stdout is not None
        try:
            assert impostor.stdout.readline() == "listening\n"
            for call in (
                lambda: control.reachable(container, list),
                lambda: control.restore(container, memory, list, timeout_s=5),
                lambda: control.checkpoint(container, tmp_path / "new.img", list, timeout_s=5),
            ):
                with pytest.raises(SandboxError, match=f"Process {impostor.pid} "):
                    call()
                assert impostor.stdout.readline() == "0 0\n"
        finally:
            impostor.kill()


def test_listener_that_is_the_machine_is_talked_to() -> None:
    container = f"{uuid.uuid4().hex}-0"
    assert not control.reachable(container, list)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0runsc-sandbox.{container}\0")
        listener.listen()
        assert control.reachable(container, lambda: [os.getpid()])
