"""The guest agent's binary: where it is, which build it is, and what is said when it is missing."""

from __future__ import annotations

import hashlib

import pytest

from callbox.errors import HostUnsuited
from callbox.sandboxes.agent import binary


def test_digest_is_of_the_binary_that_is_shipped() -> None:
    content = binary.agent_binary().read_bytes()
    assert content[:4] == b"\x7fELF"
    assert binary.agent_digest() == hashlib.sha256(content).hexdigest()[:16]


def test_binary_needs_no_interpreter_of_the_image() -> None:
    assert b"/lib64/ld-linux" not in binary.agent_binary().read_bytes()[:4096]


def test_missing_binary_is_said_with_the_command_that_builds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary, "_NAME", "not-built")
    with pytest.raises(HostUnsuited, match="scripts/build_guest"):
        binary.agent_binary()
