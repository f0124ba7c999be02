"""Reading what a guest answered. The guest is hostile: nothing of a reply is used before it went through here."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any, Final, cast

from callbox.errors import GuestProtocolError

_INTEGER_MAX: Final = 2**63 - 1
_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")


class Reply:
    """A JSON object from the guest, read field by field.

    Args:
        op: What was asked, for the error.
        fields: The object.

    Every method raises `GuestProtocolError` if the field is missing or is not what it must be.
    """

    __slots__ = ("_fields", "_op")

    def __init__(self, op: str, fields: Mapping[str, Any]) -> None:
        self._op = op
        self._fields = fields

    def wrong(self, key: str) -> GuestProtocolError:
        """The error for one field."""
        return GuestProtocolError(f"The guest answered {self._op} with a wrong {key!r}.")

    def integer(self, key: str, *, least: int = 0, most: int = _INTEGER_MAX) -> int:
        """A whole number within a range."""
        value = self._fields.get(key)
        # bool is an int for Python, not for the protocol.
        if type(value) is not int or not least <= value <= most:
            raise self.wrong(key)
        return value

    def integer_or_none(self, key: str, *, least: int = 0, most: int = _INTEGER_MAX) -> int | None:
        """A whole number within a range, or null."""
        return None if self._fields.get(key) is None else self.integer(key, least=least, most=most)

    def number(self, key: str) -> float:
        """A number that is not negative."""
        value = self._fields.get(key)
        if type(value) not in (int, float) or not 0 <= cast("float", value) <= _INTEGER_MAX:
            raise self.wrong(key)
        return float(cast("float", value))

    def text(self, key: str) -> str:
        """A string."""
        value = self._fields.get(key)
        if not isinstance(value, str):
            raise self.wrong(key)
        return value

    def text_or_none(self, key: str) -> str | None:
        """A string, or null, or nothing."""
        return None if self._fields.get(key) is None else self.text(key)

    def path(self, key: str) -> str:
        """A path. One that is no UTF-8 comes as bytes too, and is told as `os.fsdecode` tells it."""
        text, raw = self.text(key), self.text_or_none(f"{key}_base64")
        if raw is None:
            return text
        try:
            found = base64.b64decode(raw, validate=True)
        except ValueError:
            raise self.wrong(f"{key}_base64") from None
        if b"\0" in found:
            raise self.wrong(f"{key}_base64")
        return found.decode(errors="surrogateescape")

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self._fields.get(key)
        if not isinstance(value, bool):
            raise self.wrong(key)
        return value

    def sha256(self, key: str) -> str:
        """64 hex digits."""
        value = self.text(key)
        if not _SHA256.match(value):
            raise self.wrong(key)
        return value

    def texts(self, key: str) -> list[str]:
        """A list of strings."""
        values = self._list(key)
        if not all(isinstance(value, str) for value in values):
            raise self.wrong(key)
        return cast("list[str]", values)

    def objects(self, key: str) -> list[Reply]:
        """A list of objects."""
        return [Reply(self._op, cast("dict[str, Any]", each)) for each in self._list(key) if self._is_object(key, each)]

    def object(self, key: str) -> Reply:
        """An object."""
        value = self._fields.get(key)
        self._is_object(key, value)
        return Reply(self._op, cast("dict[str, Any]", value))

    def _list(self, key: str) -> list[Any]:
        if key not in self._fields:
            raise self.wrong(key)
        value = self._fields[key]
        if value is None:
            return []  # how Go writes an empty list
        if not isinstance(value, list):
            raise self.wrong(key)
        return cast("list[Any]", value)

    def _is_object(self, key: str, value: Any) -> bool:
        if not isinstance(value, dict):
            raise self.wrong(key)
        return True
