"""Hatch build hook: puts the guest agent's binary into wheels."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_BINARY = "src/callbox/sandboxes/agent/callbox-guest"


class GuestBuildHook(BuildHookInterface[Any]):
    """Runs `scripts/build_guest`; a wheel without the agent is never made."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the agent and name it as an artifact, since git ignores it.

        An editable install goes on without it: a checkout builds it with `scripts/bootstrap`.
        """
        if version == "editable":
            return
        root = Path(self.root)
        subprocess.run([str(root / "scripts" / "build_guest")], cwd=root, check=True)
        build_data["force_include"][str(root / _BINARY)] = _BINARY.removeprefix("src/")
        # `callbox demo` runs the example that people copy.
        build_data["force_include"][str(root / "examples" / "pr_review")] = "callbox/examples/pr_review"
        # The binary is static: any Linux of this architecture runs it.
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-manylinux_2_17_{platform.machine()}"
