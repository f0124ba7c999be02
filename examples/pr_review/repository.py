"""Git repositories: what a pull request changes, read without a working tree, hooks or filters."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from callbox.errors import ConfigurationError

Branch = Literal["base", "head"]

TREE_BYTES_MAX = 200 * 1_048_576
GIT_TIMEOUT_S = 120
_WHO = "callbox demo <demo@callbox.invalid> 1700000000 +0000"


@dataclass(frozen=True, slots=True)
class PullRequest:
    """Two commits of a repository: what would be merged, and into what.

    Attributes:
        name: What people call it, like ``"pull/1"``.
        folder: The repository.
        base_ref, head_ref: As they were given.
        base, head: Ids of the commits that are compared; the base is where the two parted.
        title: The head's first line.
    """

    name: str
    folder: Path
    base_ref: str
    head_ref: str
    base: str
    head: str
    title: str

    def commit(self, branch: Branch) -> str:
        """The commit of a branch."""
        return self.base if branch == "base" else self.head


def open_pull_request(folder: Path, base_ref: str, head_ref: str, *, name: str | None = None) -> PullRequest:
    """Find both commits, and where they parted.

    Raises:
        ConfigurationError: There is no such repository, or no such commit.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"There is no folder {folder}.", hint="Give the path of a git repository.")
    if _git(folder, "rev-parse", "--git-dir", check=False).returncode:
        raise ConfigurationError(f"{folder} is no git repository.", hint="Give the path of one, or run git init there.")
    base_tip, head = _resolve(folder, base_ref), _resolve(folder, head_ref)
    parted = _git(folder, "merge-base", base_tip, head, check=False)
    base = parted.stdout.decode().strip() if parted.returncode == 0 else base_tip
    if base == head:
        raise ConfigurationError(
            f"{head_ref} has nothing that {base_ref} lacks.", hint="Name a head with commits of its own."
        )
    title = _git(folder, "log", "-1", "--format=%s", head).stdout.decode(errors="replace").strip()
    return PullRequest(name or head_ref, folder, base_ref, head_ref, base, head, title)


def read_diff(pull: PullRequest, *paths: str, context_lines: int = 3) -> str:
    """The unified diff from base to head, of some paths or of all."""
    done = _git(
        pull.folder,
        "diff",
        "--no-ext-diff",
        "--no-textconv",
        "--no-color",
        "--find-renames",
        "--src-prefix=a/",
        "--dst-prefix=b/",
        f"--unified={context_lines}",
        pull.base,
        pull.head,
        "--",
        *(f":(literal){path}" for path in paths),
    )
    return done.stdout.decode(errors="replace")


def read_file(pull: PullRequest, path: str, branch: Branch = "head") -> str | None:
    """The text of a file; None if that branch has no such file."""
    done = _git(pull.folder, "cat-file", "blob", f"{pull.commit(branch)}:{path}", check=False)
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def list_files(pull: PullRequest, branch: Branch = "head") -> list[str]:
    """All paths of a branch."""
    names = _git(pull.folder, "ls-tree", "-r", "-z", "--name-only", pull.commit(branch)).stdout
    return [os.fsdecode(name) for name in names.split(b"\0") if name]


def tree_id(pull: PullRequest, branch: Branch) -> str:
    """Names the content of all files of a branch: the same files, the same id."""
    return _git(pull.folder, "rev-parse", f"{pull.commit(branch)}^{{tree}}").stdout.decode().strip()


def pack_tree(pull: PullRequest, branch: Branch) -> bytes:
    """All files of a branch as a tar.

    Not ``git archive``, which leaves out what is marked ``export-ignore``: often the tests. Submodules are left out.

    Raises:
        ConfigurationError: They have more than 200 MiB.
    """
    listed = _git(pull.folder, "ls-tree", "-r", "-z", pull.commit(branch)).stdout
    entries = [line.partition(b"\t") for line in listed.split(b"\0") if line]
    wanted = [(meta.split(), path) for meta, _, path in entries if meta.split()[1] == b"blob"]
    ids = b"".join(meta[2] + b"\n" for meta, _ in wanted)
    blobs = io.BytesIO(_git(pull.folder, "cat-file", "--batch", stdin=ids).stdout)
    packed, total = io.BytesIO(), 0
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for meta, path in wanted:
            size = int(blobs.readline().split()[2])
            content = blobs.read(size)
            blobs.read(1)
            total += size
            if total > TREE_BYTES_MAX:
                raise ConfigurationError(f"{pull.folder} has more than {TREE_BYTES_MAX >> 20} MiB of files.")
            archive.addfile(*_member(os.fsdecode(path), meta[0], content))
    return packed.getvalue()


def _member(path: str, mode: bytes, content: bytes) -> tuple[tarfile.TarInfo, io.BytesIO | None]:
    info = tarfile.TarInfo(path)
    if mode == b"120000":
        info.type, info.linkname = tarfile.SYMTYPE, os.fsdecode(content)
        return info, None
    info.mode, info.size = (0o755 if mode == b"100755" else 0o644), len(content)
    return info, io.BytesIO(content)


def make_repository(folder: Path, releases: Sequence[tuple[str, str, Path]]) -> None:
    """Make a bare repository in which each source archive is a commit on top of the one before.

    Nothing is unpacked on this host: git reads the files from a stream. The same archives give the same commit ids.

    Args:
        folder: Where; nothing is done if it is there already.
        releases: Branch, message and archive of each commit, oldest first.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".making-"))
    try:
        _git(partial, "init", "--quiet", "--bare", "--initial-branch", releases[0][0])
        stream = bytearray()
        for mark, (branch, message, archive) in enumerate(releases, 1):
            text = message.encode()
            stream += f"commit refs/heads/{branch}\nmark :{mark}\ncommitter {_WHO}\ndata {len(text)}\n".encode()
            stream += text + b"\n" + (f"from :{mark - 1}\n".encode() if mark > 1 else b"") + b"deleteall\n"
            for path, mode, content in _sources_of(archive):
                stream += f"M {mode} inline {path}\ndata {len(content)}\n".encode() + content + b"\n"
        _git(partial, "fast-import", "--quiet", stdin=bytes(stream))
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same content
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sources_of(archive: Path) -> list[tuple[str, str, bytes]]:
    """Path, mode and content of what people wrote; what the build added to the archive is left out."""
    found: list[tuple[str, str, bytes]] = []
    with tarfile.open(archive, mode="r:gz") as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts[1:]
            made = any(part.endswith(".egg-info") or part == "PKG-INFO" for part in parts)
            # Names are given to git as they are: none may leave the tree, or be read as more of the stream.
            odd = not parts or {"..", ".git"} & {*parts} or any(char in member.name for char in '"\n\\')
            content = tar.extractfile(member) if member.isfile() and not made and not odd else None
            if content is not None:
                mode = "100755" if member.mode & 0o100 else "100644"
                found.append(("/".join(parts), mode, content.read()))
    return found


def _resolve(folder: Path, ref: str) -> str:
    done = _git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}", check=False)
    if done.returncode:
        raise ConfigurationError(f"{folder} has no commit {ref!r}.", hint="Name a branch, a tag or a commit.")
    return done.stdout.decode().strip()


def _git(
    folder: Path, *arguments: str, stdin: bytes | None = None, check: bool = True
) -> subprocess.CompletedProcess[bytes]:
    if shutil.which("git") is None:
        raise ConfigurationError("git is not installed.", hint="apt-get install git")
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", "-c", "core.quotePath=false", "-c", "core.hooksPath=/dev/null", *arguments],
        cwd=folder,
        env={**env, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"},
        input=stdin if stdin is not None else b"",
        capture_output=True,
        timeout=GIT_TIMEOUT_S,
        check=False,
    )
    if check and done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise ConfigurationError(f"git {arguments[0]} failed in {folder}: {said}")
    return done
