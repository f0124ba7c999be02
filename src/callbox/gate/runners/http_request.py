"""An HTTP request from a binding and arguments; pure, so that every rule of writing it is tested without a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import quote, urlencode

from callbox.errors import Rejected
from callbox.tools.conversion import with_integers
from callbox.tools.http_binding import Credential, HttpArgument, HttpBinding, Style
from callbox.values import JsonObject, json_pointer

_RESERVED = ":/?#[]@!$&'()*+,;="
_DELIMITERS: dict[Style, str] = {"form": ",", "spaceDelimited": "%20", "pipeDelimited": "%7C"}


@dataclass(slots=True)
class HttpRequest:
    """What is sent.

    Attributes:
        method: Upper case.
        url: Complete, percent-encoded.
        headers: Names and values.
        content: The body, or None.
        fields: Names and texts of a multipart body.
        secrets: Texts that must not be shown to anybody.
    """

    method: str
    url: str = field(repr=False)
    headers: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]], repr=False)
    content: bytes | None = field(default=None, repr=False)
    fields: list[tuple[str, str]] | None = field(default=None, repr=False)
    secrets: list[str] = field(default_factory=list[str], repr=False)


def build_request(binding: HttpBinding, arguments: JsonObject, idempotency_key: str) -> HttpRequest:
    """Put validated arguments where the binding says.

    Raises:
        Rejected: An argument cannot be written without changing what is asked for: a path segment that climbs, a
            control character in a header.
    """
    given = [(each, arguments[each.name]) for each in binding.arguments if each.name in arguments]
    request = HttpRequest(binding.method, binding.base_url + _path(binding.path, given))
    query = [pair for each, value in given if each.place == "query" for pair in _query(each, value)]
    cookies = [
        f"{name}={text}" for each, value in given if each.place == "cookie" for name, text in _cookie(each, value)
    ]
    for each, value in given:
        if each.place == "header":
            request.headers.append((each.wire_name, _header_value(each, value)))
    request.headers += binding.headers.items()
    if binding.idempotency_header is not None:
        request.headers.append((binding.idempotency_header, idempotency_key))
    for credential in binding.credentials:
        _add_credential(request, credential, query, cookies)
    if query:
        request.url += "?" + "&".join(query)
    if cookies:
        request.headers.append(("cookie", "; ".join(cookies)))
    _add_body(request, binding, [(each, value) for each, value in given if each.place == "body"])
    return request


def _add_credential(request: HttpRequest, credential: Credential, query: list[str], cookies: list[str]) -> None:
    secret = credential.secret if isinstance(credential.secret, str) else credential.secret()
    request.secrets += [text for text in {secret, quote(secret, safe="")} if text]
    if credential.place == "query":
        query.append(f"{quote(credential.name, safe='')}={quote(secret, safe='')}")
    elif credential.place == "cookie":
        cookies.append(f"{credential.name}={quote(secret, safe=_COOKIE_SAFE)}")
    else:
        request.headers.append((credential.name, credential.prefix + secret))


# Path: an attacker's value must stay one segment of the path it was meant for.


def _path(template: str, given: list[tuple[HttpArgument, Any]]) -> str:
    path = quote(template, safe="/{}" + "!$&'()*+,;=:@%")
    for each, value in given:
        if each.place == "path":
            path = path.replace("{" + quote(each.wire_name, safe="!$&'()*+,;=:@%") + "}", _segment(each, value))
    return path


def _segment(argument: HttpArgument, value: Any) -> str:
    for text in _texts(value):
        # A server or a proxy that decodes %2F before it looks for the route would climb; so would one that decodes %2E.
        if any(part in ("", ".", "..") for part in text.replace("\\", "/").split("/")):
            raise Rejected(
                "This value is part of a URL path: it cannot be empty, contain empty parts, or be '.' or '..'.",
                path=json_pointer([argument.name]),
            )
    pairs, joined = _simple(value, explode=argument.explode, write=_quoted)
    if argument.style == "label":
        return "." + (".".join(pairs) if argument.explode else joined)
    if argument.style == "matrix":
        name = quote(argument.wire_name, safe="")
        if argument.explode and isinstance(value, dict):
            return "".join(f";{pair}" for pair in pairs)
        if argument.explode and isinstance(value, list):
            return "".join(f";{name}={pair}" for pair in pairs)
        return f";{name}={joined}"
    return joined


def _simple(value: Any, *, explode: bool, write: Any) -> tuple[list[str], str]:
    """Style "simple": the parts, and all of them joined with commas."""
    if isinstance(value, dict):
        members = [(write(key), write(_text(item))) for key, item in cast("JsonObject", value).items()]
        pairs = [f"{key}={item}" for key, item in members]
        return pairs, ",".join(pairs) if explode else ",".join(part for member in members for part in member)
    items = (
        [write(_text(item)) for item in cast("list[Any]", value)] if isinstance(value, list) else [write(_text(value))]
    )
    return items, ",".join(items)


def _quoted(text: str) -> str:
    return quote(text, safe="")


def _as_it_is(text: str) -> str:
    return text


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in cast("JsonObject", value).items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _texts(item)
    else:
        yield _text(value)


def _text(value: Any) -> str:
    """A JSON value as URL and header text."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # as in a JSON body, see `_add_body`
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# Query and cookies


def _query(argument: HttpArgument, value: Any) -> Iterator[str]:
    if value is None:
        return
    safe = _RESERVED.replace("&", "").replace("#", "").replace("+", "") if argument.allow_reserved else ""

    def write(text: str) -> str:
        return quote(text, safe=safe)

    name = quote(argument.wire_name, safe="")
    if argument.style == "json":
        yield f"{name}={write(json.dumps(value, ensure_ascii=False, separators=(',', ':')))}"
    elif argument.style == "deepObject" and isinstance(value, dict):
        yield from (f"{quote(key, safe='[]')}={write(text)}" for key, text in _deep(argument.wire_name, value))
    elif argument.explode and isinstance(value, dict) and argument.style == "form":
        for key, item in cast("JsonObject", value).items():
            yield f"{quote(key, safe='')}={write(_text(item))}"
    elif argument.explode and isinstance(value, list):
        yield from (f"{name}={write(_text(item))}" for item in cast("list[Any]", value))
    elif isinstance(value, dict | list):
        parts = _flat(cast("JsonObject | list[Any]", value))
        if parts:
            yield f"{name}={_DELIMITERS.get(argument.style, ',').join(write(_text(part)) for part in parts)}"
    else:
        yield f"{name}={write(_text(value))}"


def _flat(value: JsonObject | list[Any]) -> list[Any]:
    return value if isinstance(value, list) else [part for member in value.items() for part in member]


def _deep(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """``filter[a][b]=1``; arrays repeat the key, which the specification leaves open and most servers read."""
    if isinstance(value, dict):
        for key, item in cast("JsonObject", value).items():
            yield from _deep(f"{name}[{key}]", item)
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _deep(name, item)
    else:
        yield name, _text(value)


# RFC 6265's cookie-octet, without "%", which is how the rest is written.
_COOKIE_SAFE = "!#$&'()*+-./:<=>?@[]^_`{|}~"


def _cookie(argument: HttpArgument, value: Any) -> Iterator[tuple[str, str]]:
    def write(text: str) -> str:
        return quote(text, safe=_COOKIE_SAFE)

    if argument.style == "json":
        yield argument.wire_name, write(json.dumps(value))
    elif argument.explode and isinstance(value, dict):
        for key, item in cast("JsonObject", value).items():
            yield quote(key, safe=""), write(_text(item))
    elif argument.explode and isinstance(value, list):
        for item in cast("list[Any]", value):
            yield argument.wire_name, write(_text(item))
    elif value is not None:
        yield argument.wire_name, _simple(value, explode=False, write=write)[1]


# Headers


def _header_value(argument: HttpArgument, value: Any) -> str:
    text = _text(value) if argument.style == "json" else _simple(value, explode=argument.explode, write=_as_it_is)[1]
    # A line break in a value would end the header and begin another one, or another request.
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in text):
        raise Rejected(
            "This value is sent as an HTTP header: no control characters.", path=json_pointer([argument.name])
        )
    return text.strip()


# Body


def _add_body(request: HttpRequest, binding: HttpBinding, given: list[tuple[HttpArgument, Any]]) -> None:
    if binding.body == "none" or not given:
        return
    whole = [value for each, value in given if each.wire_name == ""]
    value: Any = whole[0] if whole else {each.wire_name: value for each, value in given}
    if binding.body == "multipart":
        request.fields = list(_fields(value))
        return
    if binding.body == "form":
        request.content = urlencode(list(_fields(value))).encode("ascii")
    elif binding.body == "raw":
        request.content = _text(value).encode()
    else:
        # 5.0 is an integer to JSON Schema, but not to every server.
        request.content = json.dumps(with_integers(value), ensure_ascii=False, separators=(",", ":")).encode()
    request.headers.append(("content-type", binding.content_type))


def _fields(value: Any) -> Iterator[tuple[str, str]]:
    """Members of a form: arrays repeat the name, objects are JSON text (OpenAPI 3.1, Encoding Object)."""
    for name, item in cast("JsonObject", value).items() if isinstance(value, dict) else ():
        for each in cast("list[Any]", item) if isinstance(item, list) else [item]:
            yield name, _text(each)
