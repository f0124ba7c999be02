"""Shows which calls run, for how long, and what they came to, in a line each."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from callbox import ToolCall, ToolResult
from callbox.cli.terminal import arguments, shorten

_WIDTH = 78


class CallsShown:
    """An `Observer` of calls that draws on a console.

    Args:
        console: Usually of stderr, so that stdout has the review and nothing else.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.ran = 0
        """Calls that began here, and did not come from the journal."""
        self._running: dict[str, tuple[Progress, TaskID, str]] = {}
        self._bar: Progress | None = None

    def started(self, call: ToolCall) -> None:
        """See `Observer`."""
        self.ran += 1
        said = shorten(f"{call.name}({arguments(call)})", _WIDTH)
        if self._bar is None:
            columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
            self._bar = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
            self._bar.start()
        self._running[call.id] = (self._bar, self._bar.add_task(said, total=None), said)

    def progress(self, call: ToolCall, progress: float, total: float | None, message: str | None) -> None:
        """See `Observer`."""

    def finished(self, result: ToolResult) -> None:
        """See `Observer`."""
        said = result.name
        if result.call_id in self._running:
            bar, task, said = self._running.pop(result.call_id)
            bar.remove_task(task)
        if not self._running:
            self.stop()
        mark, style = ("✗", "red") if result.is_error else ("✓", "green")
        took = f"{result.duration_ms / 1_000:7.2f} s  "
        line = Text.assemble((f"{mark} ", style), (took, "dim"), said, (f"  {shorten(summarize(result))}", style))
        self.console.print(line, soft_wrap=True)

    def stop(self) -> None:
        """Leave the terminal as it was: somebody is asked something, or nothing runs any more."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def summarize(result: ToolResult) -> str:
    """What a call came to, in a few words."""
    try:
        value: Any = json.loads(result.content)
    except ValueError:
        return result.content
    if result.is_error:
        return str(value.get("message", value))
    try:
        return _SUMMARIES[result.name](value)
    except (KeyError, TypeError):
        return result.content


def _tests(value: dict[str, Any]) -> str:
    counts = (f"{value[name]} {name}" for name in ("passed", "failed", "errors", "skipped") if value.get(name))
    return ", ".join(counts) or value["outcome"]


def _coverage(value: dict[str, Any]) -> str:
    return f"{value['ran']} of {value['changed_lines_that_can_run']} changed lines ran"


_SUMMARIES: dict[str, Callable[[dict[str, Any]], str]] = {
    "fetch_pull_request": lambda value: f"{value['title']}: {value['files_changed']} files",
    "get_pr_diff": lambda value: f"{value['chars']:,} characters",
    "read_file": lambda value: f"of {value['lines_total']} lines",
    "analyze_code_diff": lambda value: f"{value['functions_total']} functions, {value['findings_total']} findings",
    "run_tests": _tests,
    "check_coverage": _coverage,
    "post_review": lambda value: value["posted"],
}
