"""Which credentials an OpenAPI operation wants, and which of them were given."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, TypeAlias, cast

from callbox.errors import ConfigurationError
from callbox.tools.http_binding import Credential, Secret
from callbox.tools.openapi_schema import follow
from callbox.values import JsonObject

Grant: TypeAlias = Secret | tuple[str, str]
Auth: TypeAlias = Grant | Mapping[str, Grant] | None


_BASIC: JsonObject = {"type": "http", "scheme": "basic"}
_BEARER: JsonObject = {"type": "http", "scheme": "bearer"}


class Security:
    """The security schemes of a document, with the credentials that were given for them.

    Raises:
        ConfigurationError: Credentials are for a scheme that the document does not have, or that cannot take them.
    """

    def __init__(self, document: JsonObject, auth: Auth) -> None:
        components = document.get("components")
        stated = cast("JsonObject", components).get("securitySchemes") if isinstance(components, dict) else None
        schemes = cast("JsonObject", stated) if isinstance(stated, dict) else {}
        self._schemes = {name: follow(document, scheme) for name, scheme in schemes.items()}
        self._default = document.get("security")
        self._given: dict[str, Credential] = {}
        self._everywhere: tuple[Credential, ...] = ()
        if isinstance(auth, Mapping):
            self._take_by_name(cast("Mapping[str, Grant]", auth))
        elif auth is not None:
            self._take_one(auth)

    def _take_by_name(self, auth: Mapping[str, Grant]) -> None:
        for name, grant in auth.items():
            if name not in self._schemes:
                raise ConfigurationError(
                    f"The document has no security scheme {name!r}.",
                    hint=f"It has: {', '.join(self._schemes) or 'none'}.",
                )
            made = _credential(self._schemes[name], grant)
            if made is None:
                raise ConfigurationError(
                    f"The credentials do not fit security scheme {name!r} ({_describe(self._schemes[name])}).",
                    hint="Basic takes (user, password); the others take one text.",
                )
            self._given[name] = made

    def _take_one(self, grant: Grant) -> None:
        """One credential for whatever scheme it fits; for every request if the document has no scheme at all."""
        if not self._schemes:
            made = _credential(_BASIC, grant) or _credential(_BEARER, grant)
            self._everywhere = () if made is None else (made,)
            return
        for name, scheme in self._schemes.items():
            made = _credential(scheme, grant)
            if made is not None:
                self._given[name] = made
        if not self._given:
            raise ConfigurationError(
                "The credentials fit none of the document's security schemes.",
                hint=f"It has: {', '.join(f'{name} ({_describe(each)})' for name, each in self._schemes.items())}.",
            )

    def credentials(self, operation: JsonObject) -> tuple[Credential, ...]:
        """What to send with an operation: the first of its alternatives for which everything was given."""
        alternatives: Any = operation.get("security", self._default)
        if isinstance(alternatives, list):
            for alternative in cast("list[Any]", alternatives):
                names = list(cast("JsonObject", alternative)) if isinstance(alternative, dict) else []
                if names and all(name in self._given for name in names):
                    return tuple(self._given[name] for name in names)
        return self._everywhere


def _credential(scheme: JsonObject, grant: Grant) -> Credential | None:
    """The credential for a scheme; None if it cannot be one."""
    kind, http = scheme.get("type"), str(scheme.get("scheme", "")).lower()
    if kind == "http" and http == "basic":
        if not isinstance(grant, tuple):
            return None
        user, password = cast("tuple[str, str]", grant)
        secret = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
        return Credential("header", "Authorization", secret, "Basic ")
    if isinstance(grant, tuple):
        return None
    place = scheme.get("in")
    if kind == "apiKey" and place in ("header", "query", "cookie"):
        return Credential(place, str(scheme.get("name", "")), grant)
    if (kind == "http" and http == "bearer") or kind in ("oauth2", "openIdConnect"):
        return Credential("header", "Authorization", grant, "Bearer ")
    return None


def _describe(scheme: JsonObject) -> str:
    return " ".join(str(scheme[key]) for key in ("type", "scheme", "in") if key in scheme)
