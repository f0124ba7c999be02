"""The scripts of the repository, without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

import callbox
from callbox.limits import Limits

SCRIPTS = Path(callbox.__file__).parent.parent.parent / "scripts"

# Writes down what it is asked, and makes a venv whose parts do the same.
PYTHON = """#!/bin/sh
echo "$(basename "$0") $*" >> "$LOG"
if [ "$1 $2" = "-m venv" ]; then
  for target; do :; done
  mkdir -p "$target/bin"
  cp "$0" "$target/bin/python"
  cp "$0" "$target/bin/uv"
fi
"""


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def bootstrap(tmp_path: Path) -> Any:
    (tmp_path / "scripts").mkdir()
    shutil.copy(SCRIPTS / "bootstrap", tmp_path / "scripts")
    executable(tmp_path / "scripts" / "build_guest", "#!/bin/sh\n")
    python = executable(tmp_path / "bin" / "base-python", PYTHON)
    log = tmp_path / "log"

    def run() -> list[str]:
        log.write_text("")
        subprocess.run(
            [tmp_path / "scripts" / "bootstrap"],
            env={**os.environ, "PYTHON": str(python), "LOG": str(log)},
            check=True,
            capture_output=True,
        )
        return [line for line in log.read_text().splitlines() if " -m venv" in line]

    return run


def test_bootstrap_makes_a_venv_once(bootstrap: Any) -> None:
    assert bootstrap() == ["base-python -m venv --clear .venv"]
    assert bootstrap() == []


def test_bootstrap_replaces_a_venv_that_was_interrupted(bootstrap: Any, tmp_path: Path) -> None:
    executable(tmp_path / ".venv" / "bin" / "python", "#!/bin/sh\necho No module named pip >&2\nexit 1\n")
    assert bootstrap() == ["base-python -m venv --clear .venv"]


def test_the_reference_keeps_every_line_of_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_from_file_location("reference", SCRIPTS / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    reference = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "reference", reference)
    spec.loader.exec_module(reference)
    page = reference.limits_page()
    assert "never more than 200, which is what the validator below can take. |" in page
    assert page.count("\n| `") == len(Limits.__dataclass_fields__)
