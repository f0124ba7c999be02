"""What an image is to be made of, as data: TOML or JSON."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from callbox.errors import ConfigurationError
from callbox.sandboxes.spec import check_name

SPEC_BYTES_MAX = 1024 * 1024
RUN_MAX = 48
"""Commands of one image; each makes a layer."""

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?(=[A-Za-z0-9.+:~-]+)?\Z")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def _package(name: str) -> str:
    # Also keeps options out: what begins with "-" would be one.
    if not _PACKAGE.match(name):
        raise ValueError(f"{name!r} is no Debian package")
    return name


def _requirement(text: str) -> str:
    if not text.strip() or text.strip().startswith("-") or "\n" in text or "\0" in text:
        raise ValueError(f"{text!r} is no requirement for pip")
    return text.strip()


def _command(text: str) -> str:
    if not text.strip() or "\0" in text:
        raise ValueError("a command must not be empty")
    return text


def _target(path: str) -> str:
    if not path.startswith("/") or ".." in path.split("/") or path.strip("/") == "" or "\0" in path:
        raise ValueError(f"{path!r} must be an absolute path in the image, without '..'")
    return path.rstrip("/")


def _variable(name: str) -> str:
    if not _VARIABLE.match(name):
        raise ValueError(f"{name!r} cannot be the name of a variable")
    return name


def _value(text: str) -> str:
    if "\0" in text:
        raise ValueError("a variable cannot hold NUL")
    return text


class ImageSpec(BaseModel):
    """An image: what it begins with, and what is added, in this order: apt, pip, files, run.

    Attributes:
        name: What it is called in the store.
        base: Name of the image that it begins with.
        apt: Debian packages, like ``"ripgrep"`` or ``"ripgrep=13.0.0-4+b2"``.
        pip: Requirements, like ``"numpy==2.1.0"``.
        files: Absolute path in the image -> file or folder beside the spec. What is beneath ``/work`` belongs to box.
        run: Shell commands, as root, without network.
        env: Environment of every process in it, and of the commands.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Annotated[str, AfterValidator(check_name)]
    base: Annotated[str, AfterValidator(check_name)] = "python"
    apt: list[Annotated[str, AfterValidator(_package)]] = []
    pip: list[Annotated[str, AfterValidator(_requirement)]] = []
    files: dict[Annotated[str, AfterValidator(_target)], str] = {}
    run: Annotated[list[Annotated[str, AfterValidator(_command)]], Field(max_length=RUN_MAX)] = []
    env: dict[Annotated[str, AfterValidator(_variable)], Annotated[str, AfterValidator(_value)]] = {}


def read_spec(path: Path) -> ImageSpec:
    """Read a spec from a ``.toml`` or ``.json`` file.

    Raises:
        ConfigurationError: Not there, not TOML or JSON, or not a spec; says where.
    """
    try:
        raw = path.read_bytes()[: SPEC_BYTES_MAX + 1]
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from error
    if len(raw) > SPEC_BYTES_MAX:
        raise ConfigurationError(f"{path} is larger than {SPEC_BYTES_MAX:,} bytes.")
    try:
        data: Any = json.loads(raw) if path.suffix == ".json" else tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise ConfigurationError(f"{path} is not {kind}: {error}.") from error
    return parse_spec(data, where=str(path))


def parse_spec(data: Mapping[str, Any], *, where: str = "the spec") -> ImageSpec:
    """Check a spec that was read already.

    Raises:
        ConfigurationError: It is not a spec; names every field that is wrong.
    """
    try:
        return ImageSpec.model_validate(data)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg']}" for each in error.errors())
        raise ConfigurationError(
            f"In {where}: {wrong}.", hint="It has name, base, apt, pip, files, run and env."
        ) from error
