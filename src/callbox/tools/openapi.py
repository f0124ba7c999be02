"""Tools from an OpenAPI 3.0 or 3.1 document: each operation is one."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypedDict, Unpack, cast
from urllib.parse import urlsplit

from callbox.errors import ConfigurationError, DefinitionError
from callbox.tools.http_binding import HttpBinding
from callbox.tools.openapi_parameters import Request, read_request
from callbox.tools.openapi_schema import SchemaReader, follow, used_definitions
from callbox.tools.openapi_security import Auth, Security
from callbox.tools.schema import check_depth
from callbox.tools.schema_tree import close_objects
from callbox.tools.tool import Effect, Tool, sanitize_name
from callbox.values import JsonObject

__all__ = ["HttpBinding", "OpenApiOptions", "openapi_tools"]

_EFFECTS: dict[str, Effect] = {"get": "read", "head": "read", "options": "read", "delete": "destructive"}
_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_IDEMPOTENT = frozenset({"get", "head", "options", "trace", "put", "delete"})  # RFC 9110, section 9.2.2


class OpenApiOptions(TypedDict, total=False):
    """How to read a document, and how to reach the API.

    Attributes:
        base_url: Where the API is. Default: the document's first server.
        auth: Credentials. One text for the API's bearer token or key, ``(user, password)`` for basic, or a dict by
            the document's name of the security scheme. A function in place of a text is asked before each request.
        include, exclude: Names of operations (as tools), with ``*`` and ``?``. Default: all, none.
        tags: Only operations with one of these tags.
        headers: Sent with every request.
        close: As in `Toolset.from_schemas`.
    """

    base_url: str
    auth: Auth
    include: Collection[str]
    exclude: Collection[str]
    tags: Collection[str]
    headers: Mapping[str, str]
    close: bool


@dataclass(frozen=True, slots=True)
class _Operation:
    method: str
    path: str
    item: JsonObject
    data: JsonObject

    @property
    def name(self) -> str:
        stated = self.data.get("operationId")
        if isinstance(stated, str) and stated:
            return sanitize_name(stated)
        return sanitize_name(self.method + self.path.replace("{", "").replace("}", ""))

    @property
    def description(self) -> str:
        summary, text = (str(self.data.get(key) or "").strip() for key in ("summary", "description"))
        parts = [summary] if text.startswith(summary) else [summary, text]
        parts = [text] if text and text.startswith(summary) else parts
        # A document may say nothing about an operation; its method and path are better than refusing the whole.
        return "\n\n".join(part for part in parts if part) or f"{self.method.upper()} {self.path}"


def openapi_tools(document: JsonObject | str, **options: Unpack[OpenApiOptions]) -> list[Tool]:
    """The tools of a document's operations; see `Toolset.from_openapi` and `OpenApiOptions`.

    A GET, HEAD or OPTIONS reads, a DELETE destroys, everything else writes. PUT and DELETE are idempotent (RFC 9110).

    Raises:
        DefinitionError: The document, or one of its operations, cannot be made into a tool.
        ConfigurationError: `auth` or `base_url` do not fit the document.
    """
    found = _read_document(document)
    security = Security(found, options.get("auth"))
    base_url = _base_url(found, options.get("base_url"))
    tools: list[Tool] = []
    taken: set[str] = set()
    for operation in _operations(found):
        # Names are given before the choice, so that a tool keeps its name whatever else is chosen.
        name = _unique(operation.name, taken)
        taken.add(name)
        if not _is_wanted(operation, name, options):
            continue
        try:
            tools.append(_tool(found, operation, name, base_url, security, options))
        except DefinitionError as error:
            where = f"{operation.method.upper()} {operation.path}: {error.message}"
            hint = f"{error.hint or ''} Or leave the operation out: exclude=[{name!r}].".strip()
            raise DefinitionError(where, hint=hint) from error
    return tools


def _tool(
    document: JsonObject,
    operation: _Operation,
    name: str,
    base_url: str,
    security: Security,
    options: OpenApiOptions,
) -> Tool:
    reader = SchemaReader(document, is_30=_version(document) == "3.0")
    credentials = security.credentials(operation.data)
    hidden = {(each.place, each.name.lower()) for each in credentials}
    request: Request = read_request(document, reader, operation.path, operation.item, operation.data, hidden)
    schema: JsonObject = {"type": "object", "properties": request.properties}
    if request.required:
        schema["required"] = request.required
    close = options.get("close", True)
    if close:
        schema["additionalProperties"] = False
    definitions = used_definitions(schema, reader.definitions)
    if definitions:
        schema["$defs"] = definitions
    binding = HttpBinding(
        operation.method.upper(),
        base_url,
        operation.path,
        request.arguments,
        request.body,
        request.content_type,
        dict(options.get("headers", {})),
        credentials,
        request.idempotency_header,
    )
    return Tool(
        name,
        operation.description,
        close_objects(schema) if close else schema,
        binding,
        effect=_EFFECTS.get(operation.method, "write"),
        idempotent=operation.method in _IDEMPOTENT or request.idempotency_header is not None,
        title=str(operation.data.get("summary") or "") or None,
    )


def _read_document(document: JsonObject | str) -> JsonObject:
    if isinstance(document, str):
        try:
            document = cast("JsonObject", json.loads(document))
        except ValueError as error:
            raise DefinitionError(
                f"The OpenAPI document is not JSON. {error}",
                hint="A YAML document: pass yaml.safe_load(text) instead of the text.",
            ) from None
    if not isinstance(document, dict):
        raise DefinitionError("The OpenAPI document is not an object.", hint="Pass the whole document.")
    check_depth(document, "OpenAPI document")
    if "swagger" in document:
        raise DefinitionError("This is a Swagger 2.0 document.", hint="Convert it to OpenAPI 3 first.")
    if _version(document) not in ("3.0", "3.1", "3.2"):
        raise DefinitionError(
            f"This is no OpenAPI 3 document: openapi is {document.get('openapi')!r}.",
            hint='It should say "openapi": "3.0.x" or "3.1.x".',
        )
    return document


def _version(document: JsonObject) -> str:
    return ".".join(str(document.get("openapi", "")).split(".")[:2])


def _base_url(document: JsonObject, given: str | None) -> str:
    url = given
    servers = document.get("servers")
    if url is None and isinstance(servers, list) and servers and isinstance(servers[0], dict):
        server = cast("JsonObject", servers[0])
        url = str(server.get("url", ""))
        for name, variable in cast("JsonObject", server.get("variables") or {}).items():
            url = url.replace(f"{{{name}}}", str(variable.get("default", "")))
    parts = urlsplit(url or "")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(
            f"No base URL: the document's first server is {url!r}." if given is None else f"{given!r} is no base URL.",
            hint='Pass base_url="https://...".',
        )
    if parts.query or parts.fragment or parts.username or parts.password:
        raise ConfigurationError(
            "A base URL has no user, query or fragment.",
            hint="Pass credentials with auth=, and headers with headers=.",
        )
    return (url or "").rstrip("/")


def _operations(document: JsonObject) -> Iterator[_Operation]:
    for path, item in follow(document, document.get("paths") or {}).items():
        if path.startswith("x-"):
            continue
        found = follow(document, item)
        for method in _METHODS:
            if method in found:
                yield _Operation(method, path, found, follow(document, found[method]))


def _unique(name: str, taken: set[str]) -> str:
    made, count = name, 1
    while made in taken:
        count += 1
        made = f"{name[: 63 - len(str(count))]}_{count}"
    return made


def _is_wanted(operation: _Operation, name: str, options: OpenApiOptions) -> bool:
    # A document may use an operationId twice; then only the tools' own names tell the operations apart.
    stated = str(operation.data.get("operationId") or name) if operation.name == name else name

    def matches(patterns: Collection[str]) -> bool:
        every = (patterns,) if isinstance(patterns, str) else patterns
        return any(fnmatchcase(name, each) or fnmatchcase(stated, each) for each in every)

    tags = options.get("tags")
    if tags is not None and not set(operation.data.get("tags") or ()) & set(tags):
        return False
    if "include" in options and not matches(options["include"]):
        return False
    return not matches(options.get("exclude", ()))
