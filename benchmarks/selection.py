"""How often the tool that a question needs is among those chosen, over all functions of BFCL in one pool.

Run: ``python benchmarks/selection.py`` (words alone); ``--hybrid`` adds MiniLM (`callbox[embeddings]`).
Every question has the whole pool to choose from; for a question that needs several tools each of them counts.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from typing import TYPE_CHECKING

from callbox.context.counting import count_tool
from callbox.context.selection import Embed, ToolIndex
from callbox.context.selector import Selector
from callbox.messages import Message
from datasets import bfcl

if TYPE_CHECKING:
    from callbox.tools.tool import Tool

TOPS = (1, 5, 10, 20)


def pool() -> tuple[list[Tool], list[tuple[str, set[str]]]]:
    """All functions of the answered categories, by name, and each question with the tools it needs."""
    tools: dict[str, Tool] = {}
    questions: list[tuple[str, set[str]]] = []
    for category in bfcl.ANSWERED:
        for question in bfcl.load(category):
            for tool in bfcl.tools_of(question):
                tools.setdefault(tool.name, tool)
            questions.append((question.text, {answer.tool for answer in question.ground_truth or ()}))
    return list(tools.values()), questions


def measure(name: str, tools: list[Tool], questions: list[tuple[str, set[str]]], embed: Embed | None) -> None:
    """Print one line of the table."""
    index = ToolIndex(tools, embed=embed)
    start = time.process_time()
    index.rank("warm up")
    build_s = time.process_time() - start
    hits = dict.fromkeys(TOPS, 0.0)
    start = time.process_time()
    for text, wanted in questions:
        ranked = [tool.name for tool in index.rank(text)[: max(TOPS)]]
        for top in TOPS:
            hits[top] += len(wanted & set(ranked[:top])) / len(wanted)
    query_ms = (time.process_time() - start) / len(questions) * 1_000
    recalls = "  ".join(f"{hits[top] / len(questions):9.3f}" for top in TOPS)
    print(f"{name:8}  {recalls}  {build_s:10.2f}  {query_ms:10.2f}")


def saved(tools: list[Tool], questions: list[tuple[str, set[str]]]) -> None:
    """Print what a request saves."""
    index = ToolIndex(tools)
    everything = sum(count_tool(tool) for tool in tools)
    sent: list[int] = []
    for text, _ in questions[::25]:
        selector = Selector(index, max_tools=20)
        selector.note(Message.user(text))
        sent.append(selector.select().tokens)
    mean = sum(sent) / len(sent)
    print(f"definitions: {everything} tokens, {mean:.0f} sent with max_tools=20 ({mean / everything:.1%})")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hybrid", action="store_true", help="also with embeddings")
    options = parser.parse_args()
    tools, questions = pool()
    print(f"{len(tools)} tools, {len(questions)} questions; CPU time")
    heads = "  ".join(f"{'recall@' + str(top):>9}" for top in TOPS)
    print(f"{'ranking':8}  {heads}  {'build s':>10}  {'query ms':>10}")
    measure("words", tools, questions, None)
    if options.hybrid:
        from callbox.context.embeddings import minilm

        measure("hybrid", tools, questions, minilm())
    saved(tools, questions)


if __name__ == "__main__":
    main()
