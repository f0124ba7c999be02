"""What a tool returned, as the text that the model reads."""

from __future__ import annotations

import json
from typing import Any

_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def render(value: Any) -> str:
    """The text of a tool's return value.

    A string is sent as it is, None as ``null``, JSON data as JSON, and models, dataclasses, dates and the like as
    pydantic writes them. What no rule covers becomes its `str`: the tool has run, so failing here would lie.
    """
    text = value if isinstance(value, str) else _json(value)
    if not text.isascii():
        # A lone surrogate (from os.fsdecode, say) cannot be encoded by any vendor's client and would end the run.
        text = text.encode("utf-8", "replace").decode("utf-8")
    return text


def cut(text: str, chars_max: int) -> tuple[str, bool]:
    """The text, and whether it had to be cut; the cut is said in it."""
    if len(text) <= chars_max:
        return text, False
    return f"{text[:chars_max]}\n[cut here: {chars_max:,} of {len(text):,} characters]", True


def _json(value: Any) -> str:
    try:
        return _ENCODE(value)
    except Exception:  # noqa: BLE001 - a value may be a lazy object that does anything when it is read
        return _json_of_objects(value)


def _json_of_objects(value: Any) -> str:
    import pydantic_core

    try:
        return pydantic_core.to_json(
            value, fallback=str, inf_nan_mode="null", bytes_mode="base64", serialize_unknown=True
        ).decode("utf-8", "replace")
    except Exception:  # noqa: BLE001 - it contains itself, or its own serialiser fails
        return json.dumps(f"<{type(value).__name__}>")
