"""Pull images from a registry: OCI distribution-spec 1.1 (Docker's "registry v2 API").

The registry, and whoever it redirects to, may be hostile: only https (http on loopback, for tests and local mirrors),
no redirect from elsewhere to loopback, every document and blob bounded, and checked against its sha256.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import ipaddress
import json
import logging
import os
import re
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import httpx

from callbox.errors import ConfigurationError, ImageError
from callbox.sandboxes.images.limits import LIMITS, ImageLimits
from callbox.sandboxes.images.oci import Descriptor, assemble, check_blob, load_parts, read_document
from callbox.sandboxes.images.store import Image, ImageStore

_log = logging.getLogger("callbox.images")

TRIES_MAX = 5
"""Of one blob. Each goes on where the one before was cut off."""

BACKOFF_S = 0.5
"""Before the second try; doubles with each."""

TIMEOUT = httpx.Timeout(30.0, connect=10.0)

_MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_REFERENCE = re.compile(
    r"(?P<host>[a-zA-Z0-9.-]+(?::\d+)?|\[[0-9a-fA-F:]+\](?::\d+)?)/"
    r"(?P<repository>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@sha256:(?P<digest>[0-9a-f]{64}))?\Z",
    re.ASCII,
)
Progress = Callable[[str, float], None]
"""Gets what is being done, and how much of the whole is done (0 to 1)."""


@dataclass(frozen=True, slots=True)
class Reference:
    """``host[:port]/repository[:tag][@sha256:digest]``."""

    host: str
    repository: str
    tag: str
    digest: str | None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a reference. The host must be there: no registry is assumed.

        Raises:
            ConfigurationError: It is not a reference.
        """
        found = _REFERENCE.match(text)
        if found is None or not (set(".:[") & set(found["host"]) or found["host"] == "localhost"):
            raise ConfigurationError(
                f"{text!r} names no image of a registry.", hint="Write HOST/NAME:TAG or HOST/NAME@sha256:DIGEST."
            )
        return cls(found["host"], found["repository"], found["tag"] or "latest", found["digest"])

    @property
    def wanted(self) -> str:
        """What the API is asked for: the digest where there is one, because a tag may move."""
        return f"sha256:{self.digest}" if self.digest else self.tag

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}{'@' if self.digest else ':'}{self.wanted}"


def pull(
    store: ImageStore,
    reference: str,
    *,
    name: str | None = None,
    credentials: tuple[str, str] | None = None,
    limits: ImageLimits = LIMITS,
    progress: Progress | None = None,
) -> Image:
    """Fetch an image and take it into the store. What was fetched before a failure is used by the next try.

    Args:
        store: Where to.
        reference: ``host[:port]/repository[:tag][@sha256:digest]``.
        name: What it is called in the store; None: the repository's last part, and the tag unless it is "latest".
        credentials: User and password, where the registry asks for them.
        limits: How much it may be.
        progress: Is told how far it is.

    Raises:
        ConfigurationError: Not a reference.
        ImageError: Not there, not allowed, damaged, or over a limit.
    """
    wanted = Reference.parse(reference)
    last = wanted.repository.rpartition("/")[2]
    name = name or (last if wanted.tag == "latest" else f"{last}-{wanted.tag}").lower()
    with (
        store.scratch() as work,
        Registry(wanted, store.folder / "downloads", credentials, limits, progress) as registry,
    ):
        digest, manifest = registry.manifest(work)
        parts = load_parts(registry, manifest, limits)
        source = f"{wanted.host}/{wanted.repository}@sha256:{digest}"
        image = assemble(store, name, parts, work, source=source, limits=limits, report=registry.say)
        registry.forget()
    return image


class Registry:
    """One repository of one registry. A context manager; fetched blobs are locked until it ends."""

    def __init__(
        self,
        reference: Reference,
        downloads: Path,
        credentials: tuple[str, str] | None = None,
        limits: ImageLimits = LIMITS,
        progress: Progress | None = None,
    ) -> None:
        self._reference = reference
        self._downloads = downloads
        self._credentials = credentials
        self._limits = limits
        self._progress = progress
        self._share = 0.0
        self._authorization: str | None = None
        self._local = is_loopback(reference.host)
        self._base = f"{'http' if self._local else 'https'}://{reference.host}/v2/{reference.repository}"
        self._fetched: dict[Path, int] = {}
        self._client = httpx.Client(
            timeout=TIMEOUT, follow_redirects=True, event_hooks={"request": [self._check_address]}, max_redirects=5
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()
        for descriptor in self._fetched.values():
            os.close(descriptor)
        self._fetched.clear()

    def say(self, line: str) -> None:
        """Report one line of progress."""
        if self._progress is not None:
            self._progress(line, self._share)

    def forget(self) -> None:
        """Remove what was fetched: it has been unpacked."""
        for path in self._fetched:
            path.unlink(missing_ok=True)

    def manifest(self, work: Path) -> tuple[str, dict[str, Any]]:
        """Fetch the manifest or index that the reference names.

        Returns:
            Its sha256, and the document.
        """
        self.say(f"Asking {self._reference.host} for {self._reference.wanted}")
        path = work / "manifest.json"
        self._get_document(f"{self._base}/manifests/{self._reference.wanted}", path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if self._reference.digest not in (None, digest):
            raise ImageError(f"{self._reference} is damaged: its content has sha256 {digest}.")
        return digest, read_document(path, self._limits)

    def fetch(self, descriptor: Descriptor, *, bytes_max: int) -> Path:
        """Fetch a blob or a manifest, see `oci.Blobs`."""
        if descriptor.size > bytes_max:
            raise ImageError(f"A part of the image has {descriptor.size:,} bytes; at most {bytes_max:,} are taken.")
        path = self._claim(descriptor)
        if path.stat().st_size != descriptor.size or not _is_whole(path, descriptor, bytes_max):
            kind = "manifests" if "manifest" in descriptor.media_type or "index" in descriptor.media_type else "blobs"
            url = f"{self._base}/{kind}/sha256:{descriptor.digest}"
            for attempt in range(1, TRIES_MAX + 1):
                try:
                    self._download(url, path, descriptor)
                    break
                except httpx.TransportError as error:
                    if attempt == TRIES_MAX:
                        raise ImageError(f"{self._reference.host} broke off: {_named(error)}.") from error
                    _log.info("%s broke off, try %d: %s", self._reference.host, attempt, _named(error))
                    time.sleep(BACKOFF_S * 2 ** (attempt - 1))
            try:
                check_blob(path, descriptor, bytes_max=bytes_max)
            except ImageError:
                os.truncate(path, 0)  # the next try must not go on from there
                raise
        return path

    def _claim(self, descriptor: Descriptor) -> Path:
        """Open the file that a blob goes to, and wait until nobody else fetches the same one."""
        self._downloads.mkdir(parents=True, exist_ok=True)
        path = self._downloads / descriptor.digest
        while path not in self._fetched:
            opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            fcntl.flock(opened, fcntl.LOCK_EX)
            # Who had it before us may have removed it when he was done.
            if path.exists() and path.stat().st_ino == os.fstat(opened).st_ino:
                self._fetched[path] = opened
            else:
                os.close(opened)
        return path

    def _download(self, url: str, path: Path, descriptor: Descriptor) -> None:
        have = path.stat().st_size
        if have >= descriptor.size:
            os.truncate(path, 0)
            have = 0
        headers = {"Accept": ", ".join(_MANIFEST_TYPES)} if "/manifests/" in url else {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        with self._get(url, headers) as response:
            if have and not (
                response.status_code == HTTPStatus.PARTIAL_CONTENT
                and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            ):
                os.truncate(path, 0)  # it begins from the beginning
                have = 0
            with path.open("ab") as out:
                # As it comes: what is collected to larger pieces is lost when the connection breaks.
                for chunk in response.iter_raw():
                    have += len(chunk)
                    if have > descriptor.size:
                        raise ImageError(
                            f"{self._reference.host} sends more than the {descriptor.size:,} bytes it named."
                        )
                    out.write(chunk)
                    self._share = have / max(descriptor.size, 1)
                    self.say(f"Fetching {descriptor.digest[:12]} ({descriptor.size / 1e6:,.1f} MB)")
        if have < descriptor.size:
            raise httpx.ReadError(f"{have:,} of {descriptor.size:,} bytes came")

    def _get_document(self, url: str, path: Path) -> None:
        try:
            with self._get(url, {"Accept": ", ".join(_MANIFEST_TYPES)}) as response, path.open("wb") as out:
                for chunk in response.iter_bytes(64 * 1024):
                    out.write(chunk)
                    if out.tell() > self._limits.document_bytes_max:
                        raise ImageError(f"The manifest has more than {self._limits.document_bytes_max:,} bytes.")
        except httpx.TransportError as error:
            raise ImageError(f"{self._reference.host} does not answer: {_named(error)}.") from error

    @contextmanager
    def _get(self, url: str, headers: dict[str, str]) -> Generator[httpx.Response]:
        for attempt in (1, 2):
            sent = {**headers, **({"Authorization": self._authorization} if self._authorization else {})}
            try:
                with self._client.stream("GET", url, headers=sent) as response:
                    if response.status_code == HTTPStatus.UNAUTHORIZED and attempt == 1:
                        self._authorization = self._authorize(response.headers.get("WWW-Authenticate", ""))
                        continue
                    self._check_status(response)
                    yield response
                    return
            except (httpx.TooManyRedirects, httpx.DecodingError, httpx.InvalidURL) as error:
                raise ImageError(f"{self._reference.host} answers nonsense: {_named(error)}.") from error

    def _check_status(self, response: httpx.Response) -> None:
        status = response.status_code
        if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            return
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise ImageError(
                f"{self._reference.host} refuses {self._reference.repository} (HTTP {status}).",
                hint="Set CALLBOX_REGISTRY_AUTH=user:password.",
            )
        if status == HTTPStatus.NOT_FOUND:
            raise ImageError(f"{self._reference.host} has no {self._reference.repository}:{self._reference.wanted}.")
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise ImageError(f"{self._reference.host} has a part in another size than it named.")
        if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise httpx.ReadError(f"HTTP {status}")
        raise ImageError(f"{self._reference.host} answers with HTTP {status}.")

    def _authorize(self, challenge: str) -> str | None:
        """Do what the registry asks: basic credentials, or a token from where it says (distribution-spec, "token")."""
        kind, _, rest = challenge.partition(" ")
        if kind.lower() == "basic" and self._credentials is not None:
            return f"Basic {base64.b64encode(':'.join(self._credentials).encode()).decode()}"
        fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        if kind.lower() != "bearer" or "realm" not in fields:
            return None
        query = {"scope": fields.get("scope", f"repository:{self._reference.repository}:pull")}
        if "service" in fields:
            query["service"] = fields["service"]
        auth = None if self._credentials is None else httpx.BasicAuth(*self._credentials)
        try:
            with self._client.stream("GET", fields["realm"], params=query, auth=auth) as answer:
                body = b""
                for chunk in answer.iter_bytes(64 * 1024):
                    body += chunk
                    if len(body) > self._limits.document_bytes_max:
                        raise ImageError(f"The token service of {self._reference.host} sends too much.")
            document: Any = json.loads(body) if answer.status_code == HTTPStatus.OK else {}
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise ImageError(f"The token service of {self._reference.host} failed: {_named(error)}.") from error
        found = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
        token = found.get("token") or found.get("access_token")
        return f"Bearer {token}" if isinstance(token, str) else None

    def _check_address(self, request: httpx.Request) -> None:
        # Called for redirects and token services, too: where the registry sends us is the registry's choice.
        local = is_loopback(request.url.netloc.decode("ascii"))
        if request.url.scheme != "https" and not local:
            raise ImageError(
                f"{self._reference.host} leads to {request.url.host} without encryption.", hint="Use https."
            )
        if local and not self._local:
            raise ImageError(f"{self._reference.host} leads to {request.url.host}, which is this host.")


def is_loopback(host: str) -> bool:
    """Tell whether ``name[:port]`` is this host."""
    name = host.rpartition("@")[2]
    name = name[1 : name.index("]")] if name.startswith("[") and "]" in name else name.partition(":")[0]
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _is_whole(path: Path, descriptor: Descriptor, bytes_max: int) -> bool:
    try:
        check_blob(path, descriptor, bytes_max=bytes_max)
    except ImageError:
        return False
    return True


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
