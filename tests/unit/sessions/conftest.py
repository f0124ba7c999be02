"""Every test has an installation of its own: erasing a session looks for its sandboxes."""

import pytest


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("CALLBOX_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
