"""Releases of Python packages as source archives, from wherever this host's pip or uv would fetch them."""

from __future__ import annotations

import configparser
import hashlib
import os
import re
import shlex
import ssl
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import httpx

from callbox.errors import CallboxError

DEFAULT_INDEX = "https://pypi.org/simple"
ARCHIVE_BYTES_MAX = 50 * 1_048_576
TIMEOUT_S = 30.0
_ACCEPT = "application/vnd.pypi.simple.v1+html, text/html;q=0.5"


class FetchError(CallboxError):
    """A release could not be fetched."""

    code = "fetch_failed"
    retryable = True


@dataclass(frozen=True, slots=True)
class Release:
    """One release. The checksum is pinned: a mirror may serve the file, but cannot change it.

    Attributes:
        name: Of the package.
        version: Like ``"0.16.0"``.
        sha256: Of its source archive (``.tar.gz``).
    """

    name: str
    version: str
    sha256: str

    @property
    def filename(self) -> str:
        """Of its source archive."""
        return f"{self.name}-{self.version}.tar.gz"


@dataclass(frozen=True, slots=True)
class Sources:
    """Where packages come from on this host.

    Attributes:
        indexes: Base URLs of simple indexes (PEP 503), in order of preference.
        links: URLs or folders that list archives themselves (``--find-links``).
        certificates: File with the authorities to trust; None: the system's.
        proxy: URL; None: what the environment says.
    """

    indexes: tuple[str, ...]
    links: tuple[str, ...] = ()
    certificates: str | None = None
    proxy: str | None = None

    @classmethod
    def of_this_host(cls, env: Mapping[str, str] = os.environ) -> Sources:
        """Read the settings of pip (environment first, then its files) and those of uv from the environment."""
        settings = {**_pip_files(env), **_pip_environment(env)}
        index = settings.get("index-url") or env.get("UV_DEFAULT_INDEX") or env.get("UV_INDEX_URL") or DEFAULT_INDEX
        extra = _words(settings.get("extra-index-url")) + _words(env.get("UV_EXTRA_INDEX_URL"))
        # An index of uv may have a name: NAME=URL.
        extra += [re.sub(r"^[\w-]+=(?=[a-z]+:)", "", word) for word in _words(env.get("UV_INDEX"))]
        without = settings.get("no-index", "").lower() in ("1", "true", "yes", "on")
        certificates = settings.get("cert") or env.get("SSL_CERT_FILE") or env.get("REQUESTS_CA_BUNDLE")
        return cls(
            indexes=() if without else tuple(dict.fromkeys([index, *extra])),
            links=tuple(_words(settings.get("find-links")) + _words(env.get("UV_FIND_LINKS"))),
            certificates=certificates or None,
            proxy=settings.get("proxy") or None,
        )


def fetch(release: Release, folder: Path, sources: Sources | None = None) -> Path:
    """Return the release's source archive in `folder`, fetched unless it is there already.

    Raises:
        FetchError: No source has it; the message names what was tried, without credentials.
    """
    target = folder / release.filename
    if target.is_file() and _digest(target.read_bytes()) == release.sha256:
        return target
    sources = sources or Sources.of_this_host()
    folder.mkdir(parents=True, exist_ok=True)
    tried: list[str] = []
    with _client(sources) as client:
        for page in _pages(release.name, sources):
            try:
                url = _find(client, page, release.filename)
                content = None if url is None else _read(client, url)
            except (OSError, httpx.HTTPError, httpx.InvalidURL) as error:
                tried.append(f"{_without_credentials(page)}: {type(error).__name__}")
                continue
            if content is None:
                tried.append(f"{_without_credentials(page)}: no {release.filename}")
            elif _digest(content) != release.sha256:
                tried.append(f"{_without_credentials(page)}: {release.filename} has another checksum")
            else:
                _place(target, content)
                return target
    raise FetchError(
        f"{release.filename} cannot be fetched ({'; '.join(tried) or 'no index is configured'}).",
        hint="Set PIP_INDEX_URL to an index that has it, or review a repository of your own: callbox demo --repo PATH.",
    )


def _pages(name: str, sources: Sources) -> Iterator[str]:
    yield from (_as_url(link) for link in sources.links)
    normal = re.sub(r"[-_.]+", "-", name).lower()
    yield from (f"{index.rstrip('/')}/{normal}/" for index in sources.indexes)


def _as_url(place: str) -> str:
    return place if re.match(r"[a-z]+://|file:", place) else Path(place).expanduser().absolute().as_uri()


def _find(client: httpx.Client, page: str, filename: str) -> str | None:
    """The URL of a file that a page, or a folder of this host, lists."""
    local = _local(page)
    if local is not None:
        if (local / filename).is_file():
            return (local / filename).as_uri()
        listing = local / "index.html" if local.is_dir() else local
        if not listing.is_file():
            return None
        text, base = listing.read_text(), listing.as_uri()
    else:
        reply = client.get(page, headers={"Accept": _ACCEPT})
        if reply.status_code == 404:
            return None
        text, base = reply.raise_for_status().text, str(reply.url)
    links = _Links()
    links.feed(text)
    urls = (urljoin(base, link).partition("#")[0] for link in links.found)
    return next((url for url in urls if unquote(url.rpartition("/")[2]) == filename), None)


def _read(client: httpx.Client, url: str) -> bytes:
    local = _local(url)
    if local is not None:
        return local.read_bytes()
    content = bytearray()
    with client.stream("GET", url) as reply:
        for piece in reply.raise_for_status().iter_bytes():
            content += piece
            if len(content) > ARCHIVE_BYTES_MAX:
                raise FetchError(f"{_without_credentials(url)} has more than {ARCHIVE_BYTES_MAX:,} bytes.")
    return bytes(content)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]


def _client(sources: Sources) -> httpx.Client:
    context = ssl.create_default_context(cafile=sources.certificates) if sources.certificates else True
    return httpx.Client(verify=context, proxy=sources.proxy, timeout=TIMEOUT_S, follow_redirects=True)


def _local(url: str) -> Path | None:
    parts = urlsplit(url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _place(target: Path, content: bytes) -> None:
    """Whole or not at all: another process may look at the same moment."""
    number, name = tempfile.mkstemp(dir=target.parent)
    with os.fdopen(number, "wb") as file:
        file.write(content)
    Path(name).replace(target)


def _words(value: str | None) -> list[str]:
    return shlex.split(value, comments=False) if value else []


def _pip_environment(env: Mapping[str, str]) -> dict[str, str]:
    return {
        name[4:].lower().replace("_", "-"): value for name, value in env.items() if name.startswith("PIP_") and value
    }


def _pip_files(env: Mapping[str, str]) -> dict[str, str]:
    """What pip's files say for every command and for ``pip download``; later files win, as in pip."""
    own = env.get("PIP_CONFIG_FILE")
    home = Path(env.get("HOME") or Path.home())
    config = Path(env.get("XDG_CONFIG_HOME") or home / ".config")
    system = [Path(folder) / "pip" / "pip.conf" for folder in env.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")]
    user = [home / ".pip" / "pip.conf", config / "pip" / "pip.conf"]
    files = [*system, Path("/etc/pip.conf"), *user, Path(sys.prefix) / "pip.conf", *([Path(own)] if own else [])]
    found: dict[str, str] = {}
    if own == os.devnull:
        return found
    for file in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(file)
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue  # pip itself says what is wrong with it
        for section in ("global", "download"):
            if parser.has_section(section):
                found.update({name.replace("_", "-"): value for name, value in parser.items(section)})
    return found
