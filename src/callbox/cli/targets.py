"""What a command is pointed at: tools in a Python module, or definitions in a file."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from callbox.errors import CallboxError, ConfigurationError, DefinitionError
from callbox.tools.tool import FunctionBinding, Tool
from callbox.tools.toolset import Toolset
from callbox.values import JsonObject


@dataclass(slots=True)
class Loaded:
    """The tools of a target, and the definitions in it that are wrong: one of them must not hide the others.

    Attributes:
        tools: The valid ones.
        invalid: Name (or place) and error of each that is not.
    """

    tools: list[Tool] = field(default_factory=list[Tool])
    invalid: list[tuple[str, CallboxError]] = field(default_factory=list[tuple[str, CallboxError]])


def load_target(target: str) -> Loaded:
    """Load ``module:attribute`` (a toolset, a tool, a list of them), ``module`` (all tools in it), or a JSON file.

    A file holds a list of definitions in the shape of any vendor, an object with such a list under ``"tools"``, or an
    OpenAPI document. Loading a module runs it.

    Raises:
        ConfigurationError: There is no such module, attribute or file, it cannot be imported, or has no tool in it.
    """
    loaded = _from_file(Path(target)) if target.endswith(".json") else _from_module(target)
    if not loaded.tools and not loaded.invalid:
        raise ConfigurationError(f"There are no tools in {target!r}.")
    return loaded


def load_toolset(target: str) -> Toolset:
    """The tools of a target as a toolset; see `load_target`.

    Raises:
        ConfigurationError: There is no such module, attribute or file, it cannot be imported, or has no tool in it.
        DefinitionError: One of its tools is wrong, or two have one name.
    """
    loaded = load_target(target)
    for _, error in loaded.invalid:
        raise error
    return Toolset(loaded.tools)


def _from_module(target: str) -> Loaded:
    name, _, attribute = target.partition(":")
    # A console script does not look into the current directory by itself, and that is where people's tools are.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = import_module(name)
    except DefinitionError as error:
        return Loaded(invalid=[(name, error)])
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a module can raise anything while it is imported
        raise _not_imported(name, error) from None
    if not attribute:
        found = [value for value in vars(module).values() if isinstance(value, Tool | Toolset)]
        return _of([each for value in found for each in (value if isinstance(value, Toolset) else [value])])
    value: Any = module
    for step in attribute.split("."):
        if not hasattr(value, step):
            raise ConfigurationError(f"Module {name!r} has no {attribute!r}.")
        value = getattr(value, step)
    if isinstance(value, Tool) or not hasattr(value, "__iter__"):
        value = [value]
    try:
        return _of(list(Toolset(value)))
    except DefinitionError as error:
        return Loaded(invalid=[(target, error)])


def _not_imported(name: str, error: BaseException) -> ConfigurationError:
    # Of "a.b", "a" may be missing as well; any other module that is missing is the target's own trouble.
    if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
        return ConfigurationError(
            f"There is no module {name!r}.", hint='Give "module:attribute", or a file that ends in .json.'
        )
    text = " ".join(str(error).split())
    return ConfigurationError(f"Module {name!r} cannot be imported: {type(error).__name__}{text and f': {text}'}.")


def _of(tools: list[Tool]) -> Loaded:
    """Each once: a module has a tool under its own name and often in a toolset as well."""
    kept: dict[int, Tool] = {}
    for tool in tools:
        if not (isinstance(tool.binding, FunctionBinding) and tool.binding.needs_instance):
            kept.setdefault(id(tool), tool)
    return Loaded(list(kept.values()))


def _from_file(path: Path) -> Loaded:
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"Cannot read {str(path)!r}: {error.strerror}.") from None
    except ValueError as error:
        raise ConfigurationError(f"{str(path)!r} is not JSON: {error}.") from None
    if isinstance(data, dict) and ("openapi" in data or "swagger" in data):
        try:
            # The address does not matter here: nothing is called.
            return Loaded(list(Toolset.from_openapi(cast("JsonObject", data), base_url="http://localhost")))
        except DefinitionError as error:
            return Loaded(invalid=[(path.name, error)])
    if isinstance(data, dict) and isinstance(cast("JsonObject", data).get("tools"), list):
        data = cast("JsonObject", data)["tools"]
    loaded = Loaded()
    for index, definition in enumerate(cast("list[Any]", data) if isinstance(data, list) else [data]):
        try:
            loaded.tools += Toolset.from_schemas([definition])
        except DefinitionError as error:
            loaded.invalid.append((f"definition {index}", error))
    return loaded
