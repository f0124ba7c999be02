"""From strict mode's terms back to the original schema's: a null that stands for "left out" is left out."""

from __future__ import annotations

from typing import Any

from callbox.dialects.fitting import dereferenced, fits
from callbox.dialects.wire import as_list, as_object
from callbox.values import JsonObject


def restored(value: Any, schema: Any, root: JsonObject) -> Any:
    """The value without the nulls of properties that were optional and may not be null.

    Goes through objects, arrays, references and unions; of a union, the first branch that the result fits.
    What holds no null is returned as it is, without a copy.
    """
    return _restored(value, schema, root) if _has_null(value) else value


def _has_null(value: Any) -> bool:
    todo = [value]
    while todo:
        here = todo.pop()
        if here is None:
            return True
        if isinstance(here, dict):
            todo += as_object(here).values()
        elif isinstance(here, list):
            todo += as_list(here)
    return False


def _restored(value: Any, schema: Any, root: JsonObject) -> Any:
    if not isinstance(value, (dict, list)):
        return value
    found = dereferenced(schema, root)
    branches = [*as_list(found.get("anyOf")), *as_list(found.get("oneOf"))]
    if branches and not any(fits(value, branch, root) for branch in branches):
        value = _of_branch(value, branches, root)
    for part in as_list(found.get("allOf")):
        value = _restored(value, part, root)
    if isinstance(value, list):
        items = found.get("items")
        return [_restored(item, items, root) for item in as_list(value)]
    return _restored_object(as_object(value), found, root)


def _of_branch(value: Any, branches: list[Any], root: JsonObject) -> Any:
    for branch in branches:
        made = _restored(value, branch, root)
        if fits(made, branch, root):
            return made
    return value


def _restored_object(value: JsonObject, found: JsonObject, root: JsonObject) -> JsonObject:
    properties = as_object(found.get("properties"))
    required = as_list(found.get("required"))
    out: JsonObject = {}
    for name, member in value.items():
        if name not in properties:
            out[name] = member
        elif member is not None or name in required or fits(None, properties[name], root):
            out[name] = _restored(member, properties[name], root)
    return out
