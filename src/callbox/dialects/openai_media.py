"""Images, sound and files in OpenAI Chat Completions' content parts."""

from __future__ import annotations

import re

from callbox.dialects.wire import as_object
from callbox.messages import Media
from callbox.values import JsonObject

_DATA_URL = re.compile(r"data:([^;,]+);base64,(.*)", re.DOTALL)
_AUDIO = {"audio/wav": "wav", "audio/x-wav": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3"}
_AUDIO_MIME = {"wav": "audio/wav", "mp3": "audio/mpeg"}
_FILE_NAME = "file"


def data_url(media: Media) -> str:
    """Where the medium is: its own URL, or its data as one."""
    return media.url if media.url is not None else f"data:{media.mime_type};base64,{media.data or ''}"


def from_url(url: str, kind: str) -> Media:
    """The medium behind a URL. `kind`: the MIME type to give it where the URL does not say it."""
    inline = _DATA_URL.fullmatch(url)
    return Media(inline[1], data=inline[2]) if inline else Media(kind, url=url)


def write_media(media: Media) -> JsonObject:
    """A content part of a user's message."""
    if media.mime_type.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": data_url(media)}}
    if media.url is not None and not media.url.startswith("data:"):
        return {"type": "text", "text": f"[{media.mime_type}: {media.url}]"}
    if media.mime_type in _AUDIO and media.data is not None:
        return {
            "type": "input_audio",
            "input_audio": {"data": media.data, "format": _AUDIO[media.mime_type]},
        }
    return {"type": "file", "file": {"filename": _FILE_NAME, "file_data": data_url(media)}}


def read_media(part: JsonObject) -> Media | None:
    """The medium in a content part; None where the part says more than `Media` can hold."""
    kind = part.get("type")
    inner = as_object(part.get(kind)) if isinstance(kind, str) else {}
    if len(part) != 2 or not all(isinstance(value, str) for value in inner.values()):
        return None
    if kind == "image_url" and inner.keys() == {"url"}:
        return from_url(inner["url"], "image/*")
    if kind == "input_audio" and inner.keys() == {"data", "format"} and inner["format"] in _AUDIO_MIME:
        return Media(_AUDIO_MIME[inner["format"]], data=inner["data"])
    if kind == "file" and inner.keys() == {"filename", "file_data"} and inner["filename"] == _FILE_NAME:
        inline = from_url(inner["file_data"], "")
        return inline if inline.data is not None else None
    return None
