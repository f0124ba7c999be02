"""Groups, disks, detached processes and their removal, on the host that runs the tests."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from callbox.errors import SandboxError
from callbox.sandboxes.host import disks, launch
from callbox.sandboxes.host.cgroups import Cgroup, CgroupLimits
from callbox.sandboxes.host.mounts import LoopMount, OverlayMount, loop_devices_below
from callbox.sandboxes.host.processes import ProcessIdentity, find_marked, state_of, tree_of
from callbox.sandboxes.host.reap import reap
from support import until

LIMITS = CgroupLimits(memory_bytes=64 << 20, processes_max=32, cpus=1)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts and control groups")


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[tuple[str, Path]]:
    """An id and a folder, reaped afterwards."""
    machine_id = uuid.uuid4().hex
    yield machine_id, tmp_path
    await reap(tmp_path, machine_id)


def _sleeper(machine_id: str, **more: object) -> launch.Launch:
    return launch.Launch(machine_id=machine_id, argv=["sleep", "1000"], **more)  # pyright: ignore[reportArgumentType]


async def _becomes(process: launch.Launched, name: str) -> None:
    comm = Path(f"/proc/{process.pid}/comm")
    await until(lambda: comm.read_text().strip() == name)


async def test_launched_process_has_its_own_session_its_marker_and_none_of_our_environment(
    machine: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_id, place = machine
    monkeypatch.setenv("SECRET", "mine")
    out = place / "out"
    out.touch()
    request = launch.Launch(machine_id=machine_id, argv=["sh", "-c", "env; ps -o sid= -p $$; echo $$"], stdout=out)
    assert await launch.run(request, timeout_s=10) == 0
    words = out.read_text().split()
    assert f"CALLBOX_MACHINE={machine_id}" in words
    assert "SECRET=mine" not in words
    assert words[-1] == words[-2]


async def test_run_kills_what_does_not_end(machine: tuple[str, Path]) -> None:
    with pytest.raises(SandboxError, match="did not end within"):
        await launch.run(_sleeper(machine[0]), timeout_s=0.05)
    await until(lambda: not find_marked(machine[0]))


async def test_exit_status_and_signal_are_told(machine: tuple[str, Path]) -> None:
    assert await launch.run(launch.Launch(machine_id=machine[0], argv=["sh", "-c", "exit 7"]), timeout_s=10) == 7
    process = launch.start(_sleeper(machine[0]))
    process.kill()
    assert await process.ended() == -signal.SIGKILL


async def test_end_of_a_process_that_is_not_our_child_is_noticed(machine: tuple[str, Path]) -> None:
    out = machine[1] / "pid"
    out.touch()
    script = "sleep 1000 > /dev/null & echo $!"
    await launch.run(launch.Launch(machine_id=machine[0], argv=["sh", "-c", script], stdout=out), timeout_s=10)
    identity = ProcessIdentity.of(int(out.read_text()))
    assert identity is not None
    waiting = asyncio.create_task(identity.ended())
    assert identity.signal(signal.SIGKILL)
    async with asyncio.timeout(10):
        await waiting
    assert not identity.alive()
    assert not identity.signal(signal.SIGKILL)


def test_reused_pid_is_another_process() -> None:
    own = ProcessIdentity.of(os.getpid())
    assert own is not None
    assert own.alive()
    impostor = ProcessIdentity(own.pid, own.started + 1)
    assert not impostor.alive()
    assert not impostor.signal(signal.SIGKILL)


@as_root
async def test_group_holds_freezes_counts_and_kills(machine: tuple[str, Path]) -> None:
    group = Cgroup(machine[0])
    group.create(LIMITS)
    process = launch.start(
        launch.Launch(machine_id=machine[0], argv=["sh", "-c", "sleep 1000 & sleep 1000"], join=group.join_files)
    )
    await until(lambda: len(group.pids()) == 3)
    await group.freeze()
    assert group.is_frozen()
    await group.thaw()
    assert not group.is_frozen()
    assert group.usage().processes == 3
    await group.freeze()
    assert await group.kill() == 3
    assert await process.ended() == -signal.SIGKILL
    assert await group.remove()
    assert not await group.remove()
    assert not group.exists()


@as_root
async def test_group_limits_processes(machine: tuple[str, Path]) -> None:
    group = Cgroup(machine[0])
    group.create(CgroupLimits(memory_bytes=64 << 20, processes_max=8, cpus=0.5))
    if "pids" in group.unlimited:
        pytest.skip("no pids controller")
    err = machine[1] / "err"
    script = "for n in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done"
    request = launch.Launch(machine_id=machine[0], argv=["sh", "-c", script], join=group.join_files, stderr=err)
    assert await launch.run(request, timeout_s=10) != 0
    assert len(group.pids()) <= 8


async def test_without_groups_a_tree_is_stopped_with_signals(
    machine: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Cgroup(machine[0])
    monkeypatch.setattr(group, "version", 0)
    monkeypatch.setattr(group, "_folders", [])
    monkeypatch.setattr(group, "_by_controller", {})
    assert group.unlimited == ("memory", "pids", "cpu")
    process = launch.start(_sleeper(machine[0]))
    await _becomes(process, "sleep")
    await group.freeze()
    assert state_of(process.pid) == "T"
    await group.thaw()
    await until(lambda: state_of(process.pid) == "S")
    assert await group.kill() == 1
    assert await process.ended() == -signal.SIGKILL


def test_disk_is_sparse_and_its_clone_too(tmp_path: Path) -> None:
    disk, clone = tmp_path / "disk.img", tmp_path / "clone.img"
    disks.make_disk(disk, size_mb=512, inodes_max=10_000)
    disks.clone_file(disk, clone)
    assert disks.logical_bytes(disk) == disks.logical_bytes(clone) == 512 << 20
    assert disks.used_bytes(clone) < 8 << 20
    assert disk.read_bytes() == clone.read_bytes()
    assert clone.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clone.img", "disk.img"]


def test_clone_keeps_holes_and_data_where_they_are(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        for position in (0, 3 << 20, (9 << 20) + 5):
            file.seek(position)
            file.write(os.urandom(5_000))
        file.truncate(20 << 20)
    disks.clone_file(source, target)
    assert source.read_bytes() == target.read_bytes()
    assert disks.used_bytes(target) <= disks.used_bytes(source)


def test_failed_clone_leaves_the_target_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"before")
    with pytest.raises(SandboxError, match="cannot be copied"):
        disks.clone_file(tmp_path / "missing", target)
    assert target.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


@as_root
async def test_mounts_are_private_and_go_with_the_last_process(machine: tuple[str, Path]) -> None:
    machine_id, place = machine
    names = ("lower, with: odd name", "layer", "root")
    lower, layer, root = (place / name for name in names)
    for folder in (lower, layer, root):
        folder.mkdir()
    (lower / "file").write_text("below")
    disks.make_disk(place / "disk.img", size_mb=32, inodes_max=1_000)
    out, log = place / "out", place / "log"
    out.touch()
    process = launch.start(
        launch.Launch(
            machine_id=machine_id,
            argv=["sh", "-c", f"cat {root}/file && echo over > {root}/file && cat {root}/file && exec sleep 1000"],
            mounts=[LoopMount(image=place / "disk.img", at=layer), OverlayMount(lower=lower, layer=layer, at=root)],
            stdout=out,
            stderr=log,
        )
    )
    await until(lambda: out.read_text() == "belowover\n")
    assert list(root.iterdir()) == []
    assert (lower / "file").read_text() == "below"
    assert len(loop_devices_below(place)) == 1
    assert await reap(place, machine_id) >= 1
    await process.ended()
    assert loop_devices_below(place) == []
    assert await reap(place, machine_id) == 0


@as_root
async def test_reap_finds_a_process_that_left_the_group_by_its_marker(machine: tuple[str, Path]) -> None:
    process = launch.start(launch.Launch(machine_id=machine[0], argv=["sh", "-c", "sleep 1000 & sleep 1000"]))
    await until(lambda: len(tree_of([process.pid])) == 3)
    assert await reap(machine[1], machine[0]) == 3
    assert await process.ended() == -signal.SIGKILL
    assert await reap(machine[1], machine[0]) == 0


@pytest.mark.parametrize("grouped", [pytest.param(True, marks=as_root), False])
async def test_reaped_process_is_no_zombie_though_nobody_waits_for_it(machine: tuple[str, Path], grouped: bool) -> None:
    machine_id, place = machine
    group = Cgroup(machine_id)
    if grouped:
        group.create(LIMITS)
    process = launch.start(_sleeper(machine_id, join=group.join_files if grouped else ()))
    await _becomes(process, "sleep")
    await reap(place, machine_id)
    assert state_of(process.pid) == "X"
    assert await process.ended() == -signal.SIGKILL  # and its status is kept


async def test_reap_collects_what_had_ended_before(machine: tuple[str, Path]) -> None:
    machine_id, place = machine
    mine = launch.start(launch.Launch(machine_id=machine_id, argv=["true"]))
    others = launch.start(launch.Launch(machine_id="another", argv=["true"]))
    await until(lambda: state_of(mine.pid) == state_of(others.pid) == "Z")
    await reap(place, machine_id)
    assert state_of(mine.pid) == "X"
    assert state_of(others.pid) == "Z"
    assert await others.ended() == 0


async def test_reader_of_a_file_in_the_folder_is_nobodys_machine(machine: tuple[str, Path]) -> None:
    log = machine[1] / "log"
    log.touch()
    reader = launch.start(launch.Launch(machine_id="another", argv=["tail", "-f", str(log)]))
    await _becomes(reader, "tail")
    assert await reap(machine[1], machine[0]) == 0
    assert reader.identity.alive()
    reader.kill()
    await reader.ended()
