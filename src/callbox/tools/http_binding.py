"""How a tool becomes an HTTP request: data only; `gate.runners.http` sends it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Place: TypeAlias = Literal["path", "query", "header", "cookie", "body"]
Style: TypeAlias = Literal["simple", "label", "matrix", "form", "spaceDelimited", "pipeDelimited", "deepObject", "json"]
BodyKind: TypeAlias = Literal["none", "json", "form", "multipart", "raw"]
Secret: TypeAlias = str | Callable[[], str]
"""A credential, or a function that gives the current one: tokens expire."""


@dataclass(frozen=True, slots=True)
class HttpArgument:
    """Where one argument of the tool goes in the request.

    Attributes:
        name: In the tool's schema.
        place: The part of the request.
        wire_name: What the API calls it; for ``"body"``, the property; ``""`` for the body as a whole.
        style, explode: How arrays and objects are written (OpenAPI, Parameter Object); ``"json"`` for JSON text.
        allow_reserved: Reserved characters of a query value are sent as they are.
    """

    name: str
    place: Place
    wire_name: str
    style: Style = "simple"
    explode: bool = False
    allow_reserved: bool = False


@dataclass(frozen=True, slots=True)
class Credential:
    """A secret and where it goes. Never shown: not in a repr, not in an error.

    Attributes:
        place: ``"header"``, ``"query"`` or ``"cookie"``.
        name: The header, parameter or cookie.
        secret: What to send.
        prefix: Before it, like ``"Bearer "``.
    """

    place: Literal["header", "query", "cookie"]
    name: str
    secret: Secret = field(repr=False)
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class HttpBinding:
    """One operation of an HTTP API.

    Attributes:
        method: Upper case.
        base_url: Scheme, host and path prefix, without a slash at the end; no argument can change it.
        path: Template with ``{name}`` for each path argument.
        arguments: Where each argument goes.
        body: How the body is written.
        content_type: Of the body.
        headers: Sent with every request.
        credentials: Sent with every request.
        idempotency_header: Takes the call's idempotency key, where the API has such a header.
    """

    method: str
    base_url: str
    path: str
    arguments: tuple[HttpArgument, ...] = ()
    body: BodyKind = "none"
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    credentials: tuple[Credential, ...] = field(default=(), repr=False)
    idempotency_header: str | None = None
    kind: Literal["http"] = "http"

    @property
    def where(self) -> tuple[str, ...]:
        """The operation."""
        return (self.method, self.base_url, self.path)
