"""Counts what the data set's tests did, and says it at the end of the run."""

from __future__ import annotations

from collections import Counter

import pytest

_COUNTS = pytest.StashKey[Counter[str]]()


@pytest.fixture(scope="session")
def counts(request: pytest.FixtureRequest) -> Counter[str]:
    """What was done, by name; printed after the tests."""
    return request.config.stash.setdefault(_COUNTS, Counter())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """One line, because a green dot does not say how much was tried."""
    found = config.stash.get(_COUNTS, None)
    if found:
        terminalreporter.write_line("BFCL: " + ", ".join(f"{number:,} {name}" for name, number in found.items()))
