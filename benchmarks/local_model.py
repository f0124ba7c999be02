"""How often the local model is right: the quickstart questions, and BFCL's, with constraints and without.

    python benchmarks/local_model.py                      # 20 quickstart questions, 3 x 40 of BFCL, twice each
    python benchmarks/local_model.py --per-category 10    # a quick look

Every question is asked once, at temperature 0, through the `local` provider as an agent would ask it; the gate
reads what comes back. *Schema-valid*: of the replies that call at all, those whose calls all pass the gate's
validation against the tool's original schema. *Right*: the calls are the expected ones, by the data set's own rules.
Nothing is repaired by hand and nothing is asked again. The BFCL data comes from the wheel bfcl-eval
(pip install --no-deps bfcl-eval).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from callbox import Gate
from callbox.messages import Message
from callbox.providers.local import Local
from callbox.providers.provider import Request

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "tests")]

import quickstart  # noqa: E402 - found on the path that is set above

from datasets import bfcl  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from callbox.calls.call import ToolCall
    from callbox.tools.tool import Tool

CATEGORIES = ("simple_python", "multiple", "parallel")


@dataclass(frozen=True, slots=True)
class Case:
    """One question.

    Attributes:
        id: Of the data set.
        text: What is asked.
        tools: What may be called.
        is_right: Whether these calls, (name, arguments), are the expected ones.
    """

    id: str
    text: str
    tools: Sequence[Tool]
    is_right: Callable[[Sequence[tuple[str, Any]]], bool]


@dataclass(slots=True)
class Score:
    """Counts of one set of questions in one mode."""

    asked: int = 0
    called: int = 0
    valid: int = 0
    right: int = 0
    cpu_s: float = 0.0
    wrong: list[str] = field(default_factory=list[str])


def cases_of(category: str, limit: int) -> list[Case]:
    """The questions of a set: spread over the whole file, so that no topic weighs more than it does there."""
    if category == "quickstart":
        return [Case(item.id, item.text, quickstart.TOOLS, item.is_right) for item in quickstart.QUESTIONS[:limit]]
    questions = bfcl.load(category)
    step = max(1, len(questions) // limit)
    return [
        Case(q.id, q.text, bfcl.tools_of(q), lambda calls, q=q: bfcl.all_right(calls, q))
        for q in questions[::step][:limit]
    ]


async def ask(model: Local, case: Case) -> list[ToolCall]:
    """The calls of the first turn, as the gate reads them."""
    request = Request(messages=[Message.user(case.text)], tools=case.tools, temperature=0.0)
    reply = await model.complete(request)
    return [call for call, _ in Gate(case.tools).prepare(reply.calls)]


async def measure(model: Local, cases: Sequence[Case], progress: Progress, title: str) -> Score:
    """Ask all of them."""
    score = Score()
    task = progress.add_task(title, total=len(cases))
    for case in cases:
        begun = time.process_time()
        calls = await ask(model, case)
        score.cpu_s += time.process_time() - begun
        score.asked += 1
        score.called += bool(calls)
        score.valid += bool(calls) and all(call.error is None for call in calls)
        if case.is_right([(call.name, call.arguments) for call in calls if isinstance(call.arguments, dict)]):
            score.right += 1
        else:
            said = "; ".join(f"{call.name} {call.raw or call.arguments}" for call in calls) or "(no call)"
            score.wrong.append(f"{case.id}: {case.text[:160]}\n    {said}")
        progress.advance(task)
    return score


def report(console: Console, scores: dict[tuple[str, bool], Score]) -> None:
    """The table, as it is."""
    table = Table(title="SmolLM2-135M-Instruct (Q4_1), one thread, temperature 0")
    for title in ("set", "constrained", "questions", "made calls", "schema-valid", "right", "CPU s per question"):
        table.add_column(title, justify="left" if title == "set" else "right")
    for (name, constrained), score in scores.items():
        table.add_row(
            name,
            "yes" if constrained else "no",
            str(score.asked),
            str(score.called),
            _share(score.valid, score.called),
            _share(score.right, score.asked),
            f"{score.cpu_s / score.asked:.1f}",
        )
    console.print(table)


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.0%})" if whole else "-"


def total(scores: Sequence[Score]) -> Score:
    """All of them together."""
    return Score(
        sum(score.asked for score in scores),
        sum(score.called for score in scores),
        sum(score.valid for score in scores),
        sum(score.right for score in scores),
        sum(score.cpu_s for score in scores),
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy of the local model.")
    parser.add_argument("--per-category", type=int, default=40, help="BFCL questions of each category")
    parser.add_argument("--sets", nargs="+", default=["quickstart", *CATEGORIES])
    parser.add_argument("--modes", nargs="+", default=["constrained", "free"], choices=["constrained", "free"])
    parser.add_argument("--show-wrong", action="store_true", help="print what was wrong")
    options = parser.parse_args()
    console = Console(width=110)
    scores: dict[tuple[str, bool], Score] = {}
    models = {mode: Local(constrained=mode == "constrained") for mode in options.modes}
    with Progress(console=console) as progress:
        for name in options.sets:
            cases = cases_of(name, 20 if name == "quickstart" else options.per_category)
            for mode, model in models.items():
                score = await measure(model, cases, progress, f"{name}, {mode}")
                scores[name, mode == "constrained"] = score
                progress.console.print(f"{name}, {mode}: {score.right} of {score.asked} right")
    for constrained in (mode == "constrained" for mode in models):
        parts = [score for (name, how), score in scores.items() if name in CATEGORIES and how == constrained]
        if len(parts) > 1:
            scores["BFCL together", constrained] = total(parts)
    report(console, scores)
    if options.show_wrong:
        for (name, constrained), score in scores.items():
            for line in score.wrong:
                console.print(f"[{name}, {'constrained' if constrained else 'free'}] {line}", markup=False)


if __name__ == "__main__":
    asyncio.run(main())
