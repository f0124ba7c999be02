"""Copies of agents: whole, named by their content, there after an upgrade."""

from __future__ import annotations

from pathlib import Path

import pytest

from callbox.errors import SnapshotRefused
from callbox.sandboxes.agent import binary
from callbox.sandboxes.agent.store import AgentStore


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the installation, to be replaced."""
    monkeypatch.setattr(binary, "__file__", str(tmp_path / "binary.py"))
    return install(tmp_path / "callbox-guest", "one")


def install(path: Path, content: str) -> Path:
    part = path.with_name("part")
    part.write_text(content)
    part.chmod(0o755)
    return part.replace(path)


def test_copy_stays_when_the_installed_one_is_replaced(installed: Path, tmp_path: Path) -> None:
    store = AgentStore(tmp_path / "agents")
    one = store.today()
    install(installed, "two")
    two = store.today()
    assert one != two
    for each in (store, AgentStore(tmp_path / "agents")):
        assert (each.path(one).read_text(), each.path(two).read_text()) == ("one", "two")
    assert store.path(one).stat().st_mode & 0o777 == 0o755
    assert [each.name for each in store.path(one).parent.iterdir()] == ["agent"]


def test_damaged_copy_of_todays_agent_is_made_again_and_of_another_refused(installed: Path, tmp_path: Path) -> None:
    store = AgentStore(tmp_path / "agents")
    one = store.today()
    store.path(one).write_text("damaged")
    assert store.path(one).read_text() == "one"
    install(installed, "two")
    store.path(one).write_text("damaged")
    with pytest.raises(SnapshotRefused, match=one):
        store.path(one)


@pytest.mark.parametrize("digest", ["", "../../../etc", "0" * 15, "A" * 16])
def test_what_is_no_digest_is_refused(tmp_path: Path, digest: str) -> None:
    with pytest.raises(SnapshotRefused, match="no digest"):
        AgentStore(tmp_path / "agents").path(digest)
