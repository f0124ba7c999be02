"""What a docstring says to the model: the description of the function and of each parameter."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Style: TypeAlias = Literal["google", "numpy", "sphinx"]

_SECTIONS = r"args|arguments|params|parameters|keyword args|keyword arguments|other parameters"
_OTHERS = (
    r"returns?|yields?|receives?|raises?|exceptions?|warns?|warnings?|examples?|notes?|see also|references?|attributes?"
)
# A section that speaks of parameters decides the style; one of the others only tells that there is something to parse.
_STYLES: tuple[tuple[Style, re.Pattern[str]], ...] = (
    (
        "numpy",
        re.compile(rf"^[ \t]*(?:{_SECTIONS}|{_OTHERS})[ \t]*\n[ \t]*-{{3,}}[ \t]*$", re.IGNORECASE | re.MULTILINE),
    ),
    (
        "sphinx",
        re.compile(r"^[ \t]*:(?:param|parameter|arg|argument|key|keyword|type|returns?|rtype|raises?)\b", re.MULTILINE),
    ),
    ("google", re.compile(rf"^[ \t]*(?:{_SECTIONS}|{_OTHERS}):[ \t]*$", re.IGNORECASE | re.MULTILINE)),
)


@dataclass(frozen=True, slots=True)
class Docstring:
    """A docstring, read.

    Attributes:
        description: Summary and body, without the sections about parameters, results, exceptions and examples.
        parameters: Description of each documented parameter, by name.
    """

    description: str = ""
    parameters: dict[str, str] = field(default_factory=dict[str, str])


def docstring_style(text: str) -> Style | None:
    """Google, NumPy or Sphinx style, by the sections that are there; None for plain prose."""
    for style, pattern in _STYLES:
        if pattern.search(text):
            return style
    return None


def read_docstring(text: str | None) -> Docstring:
    """Read a docstring of any of the three styles. Prose without sections costs no parser."""
    cleaned = inspect.cleandoc(text) if text else ""
    style = docstring_style(cleaned)
    if style is None:
        return Docstring(cleaned)
    prose: list[str] = []
    parameters: dict[str, str] = {}
    for section in _parse(cleaned, style):
        kind = section.kind.value
        if kind == "text":
            prose.append(section.value.strip())
        elif kind == "admonition" and "example" not in section.title.lower():
            # "Note:" and its like are part of what the author wanted to be read.
            prose.append(f"{section.title}: {section.value.description.strip()}")
        elif kind in ("parameters", "other parameters"):
            for item in section.value:
                # NumPy style may document "a, b" in one entry; a star belongs to the signature, not to the name.
                for name in re.split(r"\s*,\s*", item.name):
                    parameters[name.lstrip("*\\")] = _one_paragraph(item.description)
    return Docstring("\n\n".join(part for part in prose if part), parameters)


def _parse(text: str, style: Style) -> list[Any]:
    import griffe

    parse = {"google": griffe.parse_google, "numpy": griffe.parse_numpy, "sphinx": griffe.parse_sphinx}[style]
    # warnings=False: griffe would log about types that are missing in the docstring, which are in the signature.
    return parse(griffe.Docstring(text), warnings=False)


def _one_paragraph(text: str) -> str:
    """Unwrap the lines of a parameter's description, but keep its paragraphs and lists."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(re.sub(r"[ \t]*\n[ \t]*(?![-*+\d ])", " ", paragraph).strip() for paragraph in paragraphs)
