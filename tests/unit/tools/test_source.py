"""What of a function's module travels with it, and what is refused where it is defined."""

from __future__ import annotations

import enum
import functools
import importlib.util
import json
import os.path
import subprocess
import sys
import textwrap
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from callbox import CallContext, Gate, ToolError, errors, tool
from callbox.errors import DefinitionError
from callbox.tools.sandbox_binding import SandboxPlace

LIMIT = 10 * 2
TABLE: dict[str, int] = {"a": 1}
TWICE = 1
TWICE = 2
UNSENDABLE = object()
UNSENDABLE = object()


def helper(x):
    return x + LIMIT


@functools.cache
def slow(x):
    return later(x)


def place(function, **options):
    return tool(runs_in="sandbox:python", **options)(function)


def pieces(made):
    return dict(made.binding.source.shipment().pieces)


def uses_everything(x: int, *, y: Annotated[int, Field(ge=1)] = Field(3), context: CallContext | None = None) -> str:
    """Use."""
    if x > TWICE:
        raise ToolError("no")
    return json.dumps([helper(x), slow(y), TABLE, os.path.sep])


def later(x):
    return -x


def test_a_function_travels_with_all_that_it_uses_and_without_its_hints():
    sent = pieces(place(uses_everything))
    assert sent["LIMIT"] == "LIMIT = 10 * 2"
    assert sent["TABLE"] == "TABLE = {'a': 1}"
    assert sent["TWICE"] == "TWICE = 2"
    assert sent["json"] == "import json"
    assert sent["os"] == "import os.path"
    assert sent["ToolError"] == "from callbox import ToolError"
    assert sent["slow"].startswith("@functools.cache\ndef slow(x):")
    assert sent["uses_everything"].startswith("def uses_everything(x, *, y=None, context=None):")
    assert "Field" not in sent
    order = list(sent)
    assert order.index("LIMIT") < order.index("helper") < order.index("uses_everything")


def test_only_source_travels_never_a_value_of_our_memory(monkeypatch, tmp_path):
    monkeypatch.setenv("SECRET_KEY", "hunter2")
    module = load(
        tmp_path,
        """
        import os
        from callbox import tool
        KEY = os.environ["SECRET_KEY"]
        @tool(runs_in="sandbox:python")
        def use() -> str:
            '''Use.'''
            return KEY
        """,
    )
    assert "hunter2" not in str(module.use.binding.source.shipment())


def test_what_is_defined_below_the_tool_is_found_when_the_gate_is_made(tmp_path):
    module = load(
        tmp_path,
        """
        from callbox import tool
        @tool(runs_in="sandbox:python")
        def first() -> int:
            '''First.'''
            return below() + 1
        def below():
            return 1
        """,
    )
    Gate([module.first])
    assert set(pieces(module.first)) == {"first", "below"}


def test_what_is_defined_nowhere_is_refused_when_the_gate_is_made(tmp_path):
    module = load(
        tmp_path,
        """
        from callbox import tool
        @tool(runs_in="sandbox:python")
        def first() -> int:
            '''First.'''
            return below() + 1
        """,
    )
    with pytest.raises(DefinitionError, match="'below', which its module does not define"):
        Gate([module.first])


def test_the_digest_follows_the_source_and_not_its_layout(tmp_path):
    text = "from callbox import tool\n@tool(runs_in='sandbox:python')\ndef f() -> int:\n    '''F.'''\n    return {}\n"
    digests = [
        load(tmp_path, text.format(body), name="m").f.binding.source.shipment().digest for body in ("1", "(1)", "2")
    ]
    assert digests[0] == digests[1] != digests[2]


def test_a_name_that_a_function_assigns_itself_need_not_exist():
    def remember(x: int) -> int:
        """Remember."""
        global NOWHERE_YET
        NOWHERE_YET = x
        return NOWHERE_YET

    assert set(pieces(place(remember))) == {"remember"}


def test_another_tool_is_called_as_the_function_that_it_is(tmp_path):
    module = load(
        tmp_path,
        """
        import callbox
        @callbox.tool(effect="read")
        def one() -> int:
            '''One.'''
            return 1
        @callbox.tool(runs_in="sandbox:python")
        def two() -> int:
            '''Two.'''
            return one() + 1
        """,
    )
    assert pieces(module.two)["one"].startswith("def one():")
    assert module.two() == 2


class Color(enum.Enum):
    RED = "red"


class Model(BaseModel):
    x: int


class Options(TypedDict):
    x: int
    names: list[str]


def closure():
    outer = 3

    def inner() -> int:
        """Inner."""
        return outer

    return inner


class Holder:
    def method(self) -> int:
        """Method."""
        return 1


def uses_unsendable() -> str:
    """Use."""
    return repr(UNSENDABLE)


def uses_gate() -> str:
    """Use."""
    return repr(Gate)


def uses_file() -> str:
    """Use."""
    return __file__


def test_values_and_places_that_cannot_be_sent_are_named_with_the_fix():
    made = {"__name__": "made"}
    exec("def nowhere() -> int:\n    'Nowhere.'\n    return 1", made)
    for function, said in (
        (closure(), "uses outer of the function around 'inner'"),
        (Holder.method, "is a method"),
        (uses_unsendable, "the global 'UNSENDABLE', a object that cannot be sent"),
        (uses_gate, "'from callbox import Gate', which is not there"),
        (uses_file, "uses __file__"),
        (made["nowhere"], "needs the source of 'nowhere'"),
        (functools.partial(helper, 1), "is a partial"),
    ):
        with pytest.raises(DefinitionError, match=said) as raised:
            place(function, description="d", name="t")
        assert raised.value.hint
    with pytest.raises(DefinitionError, match="is a lambda"):
        place(lambda: 1, name="t", description="d")


@pytest.mark.parametrize("hint", [Color, Model, list[Color], "Model | None", tuple[int, int], set[str]])
def test_a_parameter_that_is_no_json_value_is_refused(hint):
    def takes(x) -> int:
        """Take."""
        return 1

    takes.__annotations__["x"] = hint
    with pytest.raises(DefinitionError, match="parameter 'x': a sandbox is sent JSON values"):
        place(takes)


def test_parameters_that_are_json_values_are_taken():
    def takes(
        a: int,
        b: str | None = None,
        c: list[dict[str, float]] | None = None,
        d: Literal["x", "y"] = "x",
        e: Annotated[str, "Text."] = "",
        f: Options | None = None,
    ) -> int:
        """Take."""
        return 1

    assert place(takes).binding.kind == "sandbox"


def plain() -> int:
    """Plain."""
    return 1


@pytest.mark.parametrize("wrong", ["docker", "sandbox:", "sandbox", "sandbox:No/Such", 3, True])
def test_a_place_that_does_not_exist_is_refused(wrong):
    with pytest.raises(DefinitionError):
        tool(runs_in=wrong)(plain)


def test_places_are_read():
    assert tool(plain).binding.kind == "function"
    assert tool(runs_in="process")(plain).binding.kind == "function"
    assert tool(runs_in="sandbox:data")(plain).binding.place == SandboxPlace(image="data")
    here = SandboxPlace(image="python", memory_mb=256)
    assert tool(runs_in=here)(plain).binding.place == here
    for wrong in ({"memory_mb": 1}, {"driver": "docker"}, {"idle_s": 0}, {"image": ""}):
        with pytest.raises(DefinitionError):
            SandboxPlace(**wrong)


def test_two_tools_of_one_sandbox_may_not_want_it_in_two_ways():
    one = tool(runs_in="sandbox:python", name="one")(plain)
    two = tool(runs_in=SandboxPlace(image="python", memory_mb=256), name="two")(plain)
    with pytest.raises(DefinitionError, match="'one' and 'two' share the sandbox"):
        Gate([one, two])


def test_sandboxes_are_not_imported_for_tools_that_do_not_need_them():
    program = (
        "import sys\nfrom callbox import Gate, tool\n"
        "@tool\ndef f() -> int:\n    'F.'\n    return 1\n"
        "Gate([f]); print('callbox.sandboxes.sandbox' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def load(folder, text, name="shipped"):
    path = folder / f"{name}.py"
    path.write_text(textwrap.dedent(text))
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_errors_of_a_tool_may_come_from_either_name():
    def refuses() -> int:
        """Refuse."""
        raise errors.Rejected("no")

    assert pieces(place(refuses))["errors"] == "from callbox import errors"
