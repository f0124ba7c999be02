"""The whole review of a small repository, its tests in a real sandbox."""

from __future__ import annotations

import pytest
from pr_review.main import Review, Reviewer
from pr_review.places import SandboxPlace
from pr_review.progress import CallsShown
from pr_review.targets import RepositoryTarget
from rich.console import Console

from support_review import make_pull_request

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]


async def yes(approval):
    return True


async def nothing_to_bring(path, content):
    raise AssertionError(f"{path} is in the sandbox already")


@pytest.mark.parametrize("driver", ["gvisor", "qemu"])
async def test_a_review_runs_tests_in_its_own_sandbox_and_goes_on_there(home, tmp_path, driver):
    def review() -> Review:
        return Review(
            target=RepositoryTarget(tmp_path / "repo", "main", "feature"),
            reviewer=Reviewer("scripted"),
            place=SandboxPlace("review-vm", driver=driver, home=home),
            store=f"sqlite:///{tmp_path / 's.db'}",
            post_to=tmp_path / "review.md",
            decide=yes,
            decided_by="kim",
        )

    make_pull_request(tmp_path / "repo")
    first = CallsShown(Console(quiet=True))
    run = await review().run(first)
    posted = (tmp_path / "review.md").read_text()
    assert run.stop == "done", run.output
    assert "| base | passed | 2 | 0 | 0 | 0 |" in posted
    assert "| head | passed | 2 | 0 | 0 | 0 |" in posted
    # Ran: three `def`s, and three lines of add. Not: its `round(` (three lines, one statement), and the other bodies.
    assert "| `calc.py` | 6 | 6 | 7, 14-17, 22 |" in posted

    again = review()
    box = await again.place.open()
    assert again.place.found
    again.place.write = nothing_to_bring
    await box.standby("warm")
    shown = CallsShown(Console(quiet=True))
    run = await again.run(shown)
    assert "has not changed" in run.output
    assert shown.ran == 2
