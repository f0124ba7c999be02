"""What is reviewed: two releases of a package, or two commits of a repository of yours."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pr_review.package import Release, fetch
from pr_review.repository import PullRequest, make_repository, open_pull_request

H11 = (
    Release("h11", "0.14.0", "8f19fbbe99e72420ff35c00b27a34cb9937e902a8b810e2c88300c6f0a3b699d"),
    Release("h11", "0.16.0", "4e35b956cf45792e4caa5885e69fba00bdbc6ffafbfa020300e549b208ee5ff1"),
)
"""An HTTP/1.1 library (MIT). The newer release refuses malformed chunks: CVE-2025-43859, request smuggling."""


class Target(Protocol):
    """A pull request that can be fetched.

    Attributes:
        repository: Name of the repository, for people.
        pull: Name of the pull request, for people and for the model.
        key: Names both in 40 or fewer characters of ``a-z 0-9 -``: for sessions and sandboxes.
    """

    repository: str
    pull: str
    key: str

    @property
    def review_file(self) -> Path:
        """Where the review is posted unless somebody says otherwise."""
        ...

    def fetch(self) -> PullRequest:
        """Get it to this host, unless it is here. Raises `FetchError` or `ConfigurationError`."""
        ...


@dataclass(frozen=True, slots=True)
class ReleaseTarget:
    """Two releases of a package, as the commits of one repository: ``main`` and ``pull/1``."""

    old: Release
    new: Release
    cache: Path
    pull: str = "pull/1"

    @property
    def repository(self) -> str:
        """See `Target`."""
        return self.new.name

    @property
    def key(self) -> str:
        """See `Target`."""
        return _slug(f"{self.new.name}-{self.pull}-{self.new.version}")

    @property
    def review_file(self) -> Path:
        """See `Target`."""
        return self.cache / f"{self.key}-review.md"

    def fetch(self) -> PullRequest:
        """See `Target`."""
        folder = self.cache / f"{self.key}.git"
        if not folder.is_dir():
            archives = [fetch(release, self.cache) for release in (self.old, self.new)]
            branches = ("main", self.pull)
            messages = [f"{release.name} {release.version}" for release in (self.old, self.new)]
            make_repository(folder, list(zip(branches, messages, archives, strict=True)))
        return open_pull_request(folder, "main", self.pull)


@dataclass(frozen=True, slots=True)
class RepositoryTarget:
    """Two commits of a repository on this host."""

    folder: Path
    base: str
    head: str

    @property
    def repository(self) -> str:
        """See `Target`."""
        return self.folder.name

    @property
    def pull(self) -> str:
        """See `Target`."""
        return self.head

    @property
    def key(self) -> str:
        """See `Target`."""
        mark = hashlib.sha256(f"{self.folder}\0{self.base}\0{self.head}".encode()).hexdigest()[:8]
        return f"{_slug(f'{self.folder.name}-{self.head}')[:31]}-{mark}"

    @property
    def review_file(self) -> Path:
        """See `Target`."""
        return self.folder / f"review-{_slug(self.head)}.md"

    def fetch(self) -> PullRequest:
        """See `Target`."""
        return open_pull_request(self.folder, self.base, self.head)


def demo_target(cache: Path | None = None) -> ReleaseTarget:
    """The pull request of the demo."""
    return ReleaseTarget(*H11, cache or cache_folder())


def cache_folder() -> Path:
    """Where fetched things may be lost without harm."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "callbox" / "pr-review"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "review"
