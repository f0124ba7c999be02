"""What is remembered about a host, and when it is asked again."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from callbox.errors import HostUnsuited, SandboxNotFound
from callbox.sandboxes.images.kernel import GuestKernel
from callbox.sandboxes.qemu import probe as probing
from callbox.sandboxes.qemu.driver import QemuDriver
from callbox.sandboxes.qemu.probe import CACHE_FILE, Trial, probe

KERNEL = GuestKernel(Path("vmlinuz"), Path("initramfs"), "6.1", "d" * 16)


class Host:
    """A host on which some accelerators run guests; counts the boots."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **trials: str) -> None:
        self.booted: list[str] = []
        self.trials = trials
        self.boot_id = "one"
        self.access = "ok"
        monkeypatch.setattr(probing, "boots", self.boots)
        monkeypatch.setattr(probing, "version", lambda: "7.2")
        monkeypatch.setattr(probing, "_host_boot", lambda: self.boot_id)
        monkeypatch.setattr(probing, "_kvm_access", lambda: self.access)

    async def boots(self, kernel: GuestKernel, accelerator: str, timeout_s: float) -> Trial:
        self.booted.append(accelerator)
        why = self.trials.get(accelerator, "")
        return Trial(not why, why)


async def test_kvm_is_used_where_a_guest_ran_on_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    host = Host(monkeypatch)
    found = await probe(KERNEL, tmp_path)
    assert (found.usable, found.how, found.secure) == (True, "kvm", True)
    assert host.booted == ["kvm"]


async def test_kvm_that_opens_and_hangs_gives_software_emulation_and_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    host = Host(monkeypatch, kvm="no guest ran within 5 s")
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            found = await probe(KERNEL, tmp_path)
        assert (found.usable, found.how, found.secure) == (True, "tcg", False)
        assert found.why.startswith("kvm: opened, but no guest ran within 5 s")
        assert "no security boundary" in caplog.text
    assert host.booted == ["kvm", "tcg"]


@pytest.mark.parametrize("change", ["boot_id", "access"])
async def test_answer_is_forgotten_when_the_host_changes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: str
) -> None:
    host = Host(monkeypatch)
    await probe(KERNEL, tmp_path)
    setattr(host, change, "access to /dev/kvm denied")
    host.booted.clear()
    await probe(KERNEL, tmp_path)
    assert len(host.booted) == 1


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"key": 1}', "null", '{"key": {}, "how": "magic"}'])
async def test_damaged_memory_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str) -> None:
    host = Host(monkeypatch)
    (tmp_path / CACHE_FILE).write_text(content)
    assert (await probe(KERNEL, tmp_path)).how == "kvm"
    assert host.booted == ["kvm"]


async def test_file_cannot_call_software_emulation_secure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Host(monkeypatch, kvm="no")
    await probe(KERNEL, tmp_path)
    stored = json.loads((tmp_path / CACHE_FILE).read_text())
    (tmp_path / CACHE_FILE).write_text(json.dumps(stored | {"secure": True}))
    assert not (await probe(KERNEL, tmp_path)).secure


async def test_host_without_kvm_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    host = Host(monkeypatch)
    host.access = "access to /dev/kvm denied"
    found = await probe(KERNEL, tmp_path)
    assert (found.how, found.fix) == ("tcg", "sudo usermod -aG kvm $USER")
    assert host.booted == ["tcg"]


async def test_nothing_runs_and_that_is_not_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Host(monkeypatch, kvm="no guest ran", tcg="no guest ran")
    found = await probe(KERNEL, tmp_path)
    assert not found.usable
    assert found.fix
    assert not (tmp_path / CACHE_FILE).exists()


async def test_missing_kernel_is_said_with_the_command(tmp_path: Path) -> None:
    def missing() -> GuestKernel:
        raise SandboxNotFound("There is no guest kernel.", hint="Run: callbox setup")

    driver = QemuDriver(missing, tmp_path)
    found = await driver.probe()
    assert (found.usable, found.fix) == (False, "Run: callbox setup")
    with pytest.raises(HostUnsuited, match="no guest kernel"):
        await driver._accelerator()
