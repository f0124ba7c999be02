"""What `@tool` makes of a function: name, description, schema, binding."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, NewType, NotRequired, Optional, Required, Unpack
from uuid import UUID

import pytest
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, GetPydanticSchema, NaiveDatetime, WithJsonSchema
from pydantic_core import core_schema
from typing_extensions import Doc, TypedDict

from callbox import CallContext, Tool, Toolset, tool
from callbox.errors import DefinitionError
from callbox.tools.sandbox_binding import SandboxPlace
from callbox.tools.tool import FunctionBinding

if TYPE_CHECKING:
    from somewhere import Unknown


class Color(enum.Enum):
    """A colour."""

    RED = "red"
    BLUE = "blue"


class Point(NamedTuple):
    x: int
    y: int = 0


@dataclass
class Address:
    """Where somebody lives."""

    street: str
    tags: list[str] = field(default_factory=list)


class Options(TypedDict, total=False):
    query: Required[str]
    limit: Annotated[int, "How many."]


class Partly(TypedDict):
    """A filter."""

    must: str
    may: NotRequired[int]


class Node(BaseModel):
    """A node of a tree."""

    name: str = Field(description="Its name.")
    children: list[Node] = []


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str]


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]
UserId = NewType("UserId", int)


AWARE = GetPydanticSchema(lambda source, handler: core_schema.time_schema(tz_constraint="aware"))


def binding_of(made: Tool) -> FunctionBinding:
    assert isinstance(made.binding, FunctionBinding)
    return made.binding


def properties(made: Tool) -> dict[str, Any]:
    return made.parameters["properties"]


def call(made: Tool, **arguments: Any) -> Any:
    """Run a sync tool the way the gate does."""
    assert made.validator.is_valid(arguments), list(made.validator.iter_errors(arguments))
    binding = binding_of(made)
    return binding.function(**(binding.convert(arguments) if binding.convert else arguments))


# Name, description, metadata


def test_name_description_and_parameter_texts_come_from_the_function():
    @tool
    async def get_order(order_id: str, limit: int = 3) -> dict[str, Any]:
        """Look up one order.

        Only orders of this year.

        Args:
            order_id: The order's id,
                like "A-1042".
            limit: How many.

        Returns:
            The order.
        """
        return {}

    assert isinstance(get_order, Tool)
    assert get_order.name == "get_order"
    assert get_order.description == "Look up one order.\n\nOnly orders of this year."
    assert get_order.parameters == {
        "type": "object",
        "properties": {
            "order_id": {"type": "string", "description": 'The order\'s id, like "A-1042".'},
            "limit": {"type": "integer", "description": "How many.", "default": 3},
        },
        "required": ["order_id"],
        "additionalProperties": False,
    }
    assert binding_of(get_order).is_async
    assert get_order.effect == "write"


def test_options_of_the_decorator_reach_the_tool():
    @tool(
        name="find",
        description="  Find things.\n    Well.",
        effect="read",
        scopes="shop:read",
        timeout_s=2.5,
        concurrency=3,
        idempotent=True,
        retries=2,
        retry_on=OSError,
        approval="always",
        expose_errors=True,
        title="Finder",
        pinned=True,
    )
    def anything(text: str) -> str:
        return text

    assert (anything.name, anything.description) == ("find", "Find things.\nWell.")
    assert (anything.effect, anything.scopes, anything.timeout_s) == ("read", frozenset({"shop:read"}), 2.5)
    assert (anything.concurrency, anything.idempotent, anything.retries) == (3, True, 2)
    assert (anything.retry_on, anything.approval, anything.expose_errors) == ((OSError,), "always", True)
    assert (anything.title, anything.pinned) == ("Finder", True)
    assert anything("x") == "x"


def test_several_scopes_and_exceptions_are_kept():
    @tool(scopes=["a", "b"], retry_on=(OSError, KeyError), effect="read")
    def f() -> None:
        """Do what it does."""

    assert f.scopes == {"a", "b"}
    assert f.retry_on == (OSError, KeyError)
    assert f.parameters == {"type": "object", "properties": {}, "additionalProperties": False}


def test_a_function_without_a_description_is_refused_with_the_fix():
    def f(a: str) -> str:
        return a

    with pytest.raises(DefinitionError, match=r"has no description.*Write a docstring"):
        tool(f)


def test_a_name_that_vendors_refuse_is_answered_with_a_valid_one():
    def f() -> None:
        """Do it."""

    with pytest.raises(DefinitionError, match='Use name="math_add"'):
        tool(name="math.add")(f)
    with pytest.raises(DefinitionError, match="A lambda has no name"):
        tool(lambda: None)


# Hints and their schemas


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (str, {"type": "string"}),
        (int, {"type": "integer"}),
        (float, {"type": "number"}),
        (bool, {"type": "boolean"}),
        (Any, {}),
        (list[str], {"type": "array", "items": {"type": "string"}}),
        (dict[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (set[str], {"type": "array", "items": {"type": "string"}, "uniqueItems": True}),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (Color, {"type": "string", "description": "A colour.", "enum": ["red", "blue"]}),
        (date, {"type": "string", "format": "date"}),
        (datetime, {"type": "string", "format": "date-time"}),
        (AwareDatetime, {"type": "string", "format": "date-time"}),
        (timedelta, {"type": "string", "format": "duration"}),
        (UUID, {"type": "string", "format": "uuid"}),
        (Path, {"type": "string", "format": "path"}),
        (bytes, {"type": "string", "format": "binary"}),
        (UserId, {"type": "integer"}),
        (Annotated[int, Field(ge=1, le=9)], {"type": "integer", "maximum": 9, "minimum": 1}),
        (Annotated[str, Field(pattern="^a+$", max_length=5)], {"type": "string", "maxLength": 5, "pattern": "^a+$"}),
        (Annotated[str, "The city."], {"type": "string", "description": "The city."}),
        (Annotated[str, Doc("The city.")], {"type": "string", "description": "The city."}),
        (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (Optional[str], {"anyOf": [{"type": "string"}, {"type": "null"}]}),  # noqa: UP045 - old code has it
        (
            Point,
            {
                "type": "object",
                "properties": {"x": {"type": "integer"}, "y": {"type": "integer", "default": 0}},
                "required": ["x"],
                "additionalProperties": False,
            },
        ),
        (
            Partly,
            {
                "type": "object",
                "description": "A filter.",
                "properties": {"must": {"type": "string"}, "may": {"type": "integer"}},
                "required": ["must"],
                "additionalProperties": False,
            },
        ),
        (
            Address,
            {
                "type": "object",
                "description": "Where somebody lives.",
                "properties": {
                    "street": {"type": "string"},
                    "tags": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["street"],
                "additionalProperties": False,
            },
        ),
    ],
)
def test_a_hint_becomes_its_schema(hint: Any, expected: dict[str, Any]):
    def f(value: Any) -> None:
        """Take a value."""

    f.__annotations__["value"] = hint
    schema = dict(properties(tool(f))["value"])
    if hint is Address:  # pydantic tells the docstrings of dataclasses since 2.12 or so
        schema.setdefault("description", expected["description"])
    assert schema == expected


def test_a_recursive_model_keeps_its_definition_and_a_single_use_one_does_not():
    @tool
    def f(node: Node, color: Color, again: Annotated[Color, Field(description="Once more.")]) -> None:
        """Walk a tree."""

    assert set(f.parameters["$defs"]) == {"Node", "Color"}
    assert f.parameters["$defs"]["Node"]["properties"]["children"]["items"] == {"$ref": "#/$defs/Node"}
    assert properties(f)["again"] == {"$ref": "#/$defs/Color", "description": "Once more."}
    assert f.parameters["$defs"]["Node"]["additionalProperties"] is False
    assert "title" not in repr(f.parameters)


def test_two_classes_of_one_name_stay_apart():
    class Color(BaseModel):
        hue: int

    outer = globals()["Color"]

    def f(a: Any, b: Any, c: Any, d: Any) -> None:
        """Mix."""

    f.__annotations__.update(a=Color, b=outer, c=Color, d=outer)
    made = tool(f)
    assert len(made.parameters["$defs"]) == 2
    assert properties(made)["a"] != properties(made)["b"]
    assert "title" not in repr(made.parameters)


def test_a_member_named_like_a_keyword_is_kept():
    class Odd(BaseModel):
        default: Color
        properties: Color
        discriminator: dict[str, Color]

    @tool
    def f(odd: Odd) -> None:
        """Take odd names."""

    assert set(f.parameters["$defs"]) == {"Color"}
    assert set(properties(f)["odd"]["properties"]) == {"default", "properties", "discriminator"}
    assert f.validator.is_valid({"odd": {"default": "red", "properties": "blue", "discriminator": {"x": "red"}}})
    assert not f.validator.is_valid({"odd": {"default": "green", "properties": "blue", "discriminator": {}}})


def test_a_discriminated_union_has_closed_branches_and_no_openapi_keyword():
    @tool
    def f(pet: Pet) -> Any:
        """Feed a pet."""
        return pet

    assert "discriminator" not in properties(f)["pet"]
    assert [branch["additionalProperties"] for branch in properties(f)["pet"]["oneOf"]] == [False, False]
    assert call(f, pet={"kind": "dog", "tricks": ["sit"]}) == Dog(kind="dog", tricks=["sit"])
    assert not f.validator.is_valid({"pet": {"kind": "dog", "lives": 9}})


def test_a_model_that_allows_more_stays_open():
    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")
        a: int

    @tool
    def f(value: Open) -> Any:
        """Take more."""
        return value.model_extra

    assert properties(f)["value"]["additionalProperties"] is True
    assert call(f, value={"a": 1, "b": 2}) == {"b": 2}


def test_decimals_have_a_pattern_that_a_linear_engine_takes():
    @tool
    def f(price: Decimal) -> Any:
        """Take a price."""
        return price

    assert call(f, price="12.50") == Decimal("12.50")
    assert call(f, price=0.1) == Decimal("0.1")
    assert call(f, price="1e-3") == Decimal("0.001")
    assert not f.validator.is_valid({"price": "cheap"})


def test_a_time_needs_no_offset_and_a_naive_datetime_takes_none():
    @tool
    def f(at: time, start: NaiveDatetime) -> Any:
        """Plan a visit."""
        return at, start

    assert call(f, at="09:30", start="2025-03-01T09:00:00") == (time(9, 30), datetime(2025, 3, 1, 9))
    assert f.validator.is_valid({"at": "09:30:00+01:00", "start": "2025-03-01T09:00"})
    assert not f.validator.is_valid({"at": "25:00", "start": "2025-03-01T09:00"})
    assert not f.validator.is_valid({"at": "09:30", "start": "2025-03-01T09:00:00Z"})


def test_an_aware_time_needs_an_offset():
    @tool
    def f(at: Annotated[time, AWARE]) -> Any:
        """Plan a visit."""
        return at

    assert properties(f)["at"] == {"type": "string", "format": "time"}
    assert call(f, at="09:30:00Z").tzinfo is not None


def test_a_definition_that_a_reference_with_rules_needs_is_kept():
    ref = Annotated[str, WithJsonSchema({"$ref": "#/$defs/Other", "minLength": 1})]
    gone = Annotated[str, WithJsonSchema({"$ref": "https://example.com/x"})]

    def f(a: Any) -> None:
        """Do it."""

    for hint, message in ((ref, "no JSON form"), (gone, "nothing is ever fetched")):
        f.__annotations__["a"] = hint
        with pytest.raises(DefinitionError, match=message):
            tool(f)


def test_a_hint_without_a_json_form_is_refused_by_name():
    class Service:
        pass

    def f(name: str, service: Any) -> None:
        """Use a service."""

    f.__annotations__["service"] = Service
    with pytest.raises(DefinitionError, match=r"'f', parameter 'service'.*CallContext\.state"):
        tool(f)
    f.__annotations__["service"] = Callable[[], int]
    with pytest.raises(DefinitionError, match="parameter 'service'"):
        tool(f)
    f.__annotations__["service"] = 5
    with pytest.raises(DefinitionError, match="parameter 'service'"):
        tool(f)
    f.__annotations__["service"] = "1 +"
    with pytest.raises(DefinitionError, match=r"parameter 'service'.*not a type"):
        tool(f)


def test_a_parameter_without_a_hint_may_be_anything():
    @tool
    def f(value) -> Any:  # pyright: ignore[reportMissingParameterType]
        """Take anything."""
        return value

    assert properties(f) == {"value": {}}
    assert call(f, value=[1, {"a": None}]) == [1, {"a": None}]


# Defaults


def test_defaults_are_told_where_json_can_say_them():
    unknown = object()

    @tool
    def f(
        color: Color = Color.RED,
        day: date = date(2025, 1, 2),
        point: Point = Point(1),  # noqa: B008 - immutable
        other: Any = unknown,
        limit: float = float("inf"),
        nothing: int = None,  # pyright: ignore[reportArgumentType] # noqa: RUF013 - old code has it
    ) -> Any:
        """Use defaults."""
        return color, day, point, other is unknown, limit, nothing

    assert properties(f)["color"]["default"] == "red"
    assert properties(f)["day"]["default"] == "2025-01-02"
    assert properties(f)["point"]["default"] == {"x": 1, "y": 0}
    assert "default" not in properties(f)["other"]
    assert "default" not in properties(f)["limit"]
    assert properties(f)["nothing"] == {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None}
    assert call(f) == (Color.RED, date(2025, 1, 2), Point(1), True, float("inf"), None)
    assert call(f, nothing=None, color="blue")[0] is Color.BLUE
    assert "required" not in f.parameters


def test_a_default_of_none_is_allowed_whatever_says_so():
    @tool
    def f(
        a: Annotated[int | None, "A number."] = None,
        b: Any = None,
        c: Literal["x", None] = None,
        d: Annotated[str, "A text."] = None,  # pyright: ignore[reportArgumentType] # noqa: RUF013
    ) -> None:
        """Do it."""

    assert f.validator.is_valid({"a": None, "b": None, "c": None, "d": None})
    assert properties(f)["b"] == {"default": None}
    assert properties(f)["c"]["enum"] == ["x", None]
    assert properties(f)["d"]["anyOf"] == [{"type": "string"}, {"type": "null"}]
    assert properties(f)["d"]["description"] == "A text."


def test_a_description_in_a_field_counts_more_than_the_docstring():
    @tool
    def f(a: Annotated[int, Field(description="Nearer.")]) -> None:
        """Do it.

        Args:
            a: Farther.
        """

    assert properties(f)["a"]["description"] == "Nearer."


def test_defaults_written_as_fields_are_filled_in_by_the_gate():
    @tool
    def f(
        count: int = Field(3, ge=1, description="How many."),
        tags: list[str] = Field(default_factory=list),  # noqa: B008 - what is tested
        name: str = Field(max_length=3),
    ) -> Any:
        """Use fields."""
        return count, tags, name

    assert properties(f)["count"] == {"type": "integer", "description": "How many.", "minimum": 1, "default": 3}
    assert f.parameters["required"] == ["name"]
    assert call(f, name="abc") == (3, [], "abc")
    assert call(f, name="abc", count=5.0) == (5, [], "abc")
    assert not f.validator.is_valid({"name": "abcd"})


def test_an_alias_is_what_the_model_sees():
    @tool
    def f(from_: Annotated[str, Field(alias="from")], to: Annotated[int, Field(alias="end")] = 2) -> Any:
        """Travel.

        Args:
            from_: Where it begins.
        """
        return from_, to

    assert properties(f) == {
        "from": {"type": "string", "description": "Where it begins."},
        "end": {"type": "integer", "default": 2},
    }
    assert call(f, **{"from": "a", "end": 3.0}) == ("a", 3)


# Signatures


def test_the_context_is_hidden_however_it_is_annotated():
    @tool
    def plain(a: int, ctx: CallContext) -> None:
        """Do it."""

    @tool
    def optional(a: int, ctx: CallContext | None = None) -> None:
        """Do it."""

    @tool
    def annotated(a: int, ctx: Annotated[CallContext, "mine"]) -> None:
        """Do it.

        Args:
            a: A number.
            ctx: Documented for people.
        """

    for made in (plain, optional, annotated):
        assert set(properties(made)) == {"a"}
        assert binding_of(made).context_parameter == "ctx"


def test_a_context_that_only_type_checkers_import_is_found():
    namespace: dict[str, Any] = {"__name__": "elsewhere"}
    exec('def f(a: "int", ctx: "CallContext") -> None:\n    """Do it."""', namespace)
    assert binding_of(tool(namespace["f"])).context_parameter == "ctx"


def test_parameters_that_cannot_be_named_are_refused_with_the_fix():
    def starred(*items: str) -> None:
        """Do it."""

    def positional(a: int, /) -> None:
        """Do it."""

    def keywords(**options: Any) -> None:
        """Do it."""

    with pytest.raises(DefinitionError, match=r"Use items: list\[...\] for \*items"):
        tool(starred)
    with pytest.raises(DefinitionError, match="Remove the /"):
        tool(positional)
    with pytest.raises(DefinitionError, match=r"\*\*options: Unpack\[SomeTypedDict\]"):
        tool(keywords)


def test_an_unpacked_typed_dict_gives_its_members():
    @tool
    def f(first: int, **options: Unpack[Options]) -> Any:
        """Search.

        Args:
            first: Where to begin.
            **options: The rest.
            query: What to look for.
        """
        return first, options

    assert properties(f)["query"] == {"type": "string", "description": "What to look for."}
    assert properties(f)["limit"] == {"type": "integer", "description": "How many."}
    assert f.parameters["required"] == ["first", "query"]
    assert call(f, first=1, query="x", limit=2.0) == (1, {"query": "x", "limit": 2})


def test_a_documented_parameter_that_does_not_exist_is_refused():
    def f(order_id: str) -> None:
        """Look up.

        Args:
            orderid: The id.
        """

    with pytest.raises(DefinitionError, match=r"'orderid', which it does not have.*It has: order_id"):
        tool(f)


def test_a_name_that_is_not_defined_is_refused_by_name():
    def f(value: Unknown) -> None:
        """Do it."""

    with pytest.raises(DefinitionError, match="'Unknown' in its type hint is not defined"):
        tool(f)


def test_generators_are_refused():
    def f(a: int) -> Any:
        """Count."""
        yield a

    async def g(a: int) -> Any:
        """Count."""
        yield a

    for each in (f, g):
        with pytest.raises(DefinitionError, match="yields, but a call has one result"):
            tool(each)


def test_local_classes_are_found_from_string_annotations():
    def outer() -> Tool:
        class Item(BaseModel):
            name: str
            parts: list[Item] = []

        @dataclass
        class Box:
            item: Item
            inner: Box | None = None

        class Wish(TypedDict):
            box: Box

        @tool
        def f(box: Box, wish: Wish | None = None) -> Any:
            """Open a box."""
            return box.item.name, wish

        return f

    made = outer()
    assert call(made, box={"item": {"name": "x"}})[0] == "x"
    assert call(made, box={"item": {"name": "x"}}, wish={"box": {"item": {"name": "y"}}})[1]["box"].item.name == "y"
    assert not made.validator.is_valid({"box": {"item": {"name": "x", "wrong": 1}}})


def test_a_local_class_hides_a_global_one_of_the_same_name():
    def outer() -> Tool:
        class Address(BaseModel):
            planet: str

        @tool
        def f(address: Address) -> str:
            """Go there."""
            return address.planet

        return f

    assert call(outer(), address={"planet": "Mars"}) == "Mars"


def test_names_of_a_caller_are_not_taken_for_an_enclosing_functions():
    def f(value: Hidden) -> None:  # noqa: F821
        """Do it."""

    def caller() -> None:
        Hidden = int  # noqa: F841
        tool(f)

    with pytest.raises(DefinitionError, match="'Hidden'"):
        caller()


def test_captured_variables_are_found_after_the_enclosing_function_has_ended():
    def outer() -> Callable[..., Any]:
        class Item(BaseModel):
            name: str

        def f(item: Item) -> str:
            """Name an item."""
            assert Item
            return item.name

        return f

    assert call(tool(outer()), item={"name": "x"}) == "x"

    def unbound() -> Callable[..., Any]:
        def f(a: int) -> Any:
            """Use what is not there yet."""
            return a, later

        made = tool(f)
        later = 5
        return made

    assert call(unbound(), a=1) == (1, 5)


# Callables that are no plain functions


class Shop:
    def __init__(self, prices: dict[str, int]) -> None:
        self.prices = prices

    @tool(effect="read")
    def price(self, item: str) -> int:
        """Look up the price of an item."""
        return self.prices[item]

    @price.check
    def known(self, item: str) -> str | None:
        return None if item in self.prices else f"There is no {item}."

    @price.check
    def short(item: str) -> str | None:
        return None if len(item) < 10 else "Too long."

    @tool
    async def restock(self, item: str, ctx: CallContext) -> None:
        """Order more of an item."""

    @tool
    @staticmethod
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @staticmethod
    def subtract(a: int, b: int) -> int:
        """Subtract two numbers."""
        return a - b

    @tool
    @classmethod
    def make(cls, item: str) -> str:
        """Make a shop."""
        return f"{cls.__name__}:{item}"

    def plain(self, item: str) -> str:
        """Do something plain."""
        return item


def test_a_version_says_what_runs_and_where():
    def look(place: str) -> str:
        """Look at a place."""
        return place

    options = (
        {},
        {"idempotent": True},
        {"effect": "read"},
        {"scopes": "look"},
        {"name": "see"},
        {"description": "See."},
        {"runs_in": "sandbox:python"},
        {"runs_in": "sandbox:other"},
        {"runs_in": SandboxPlace(driver="qemu")},
    )
    assert len({tool(**each)(look).version for each in options}) == len(options)
    assert tool(look).version == tool(runs_in="process", timeout_s=5, concurrency=1, title="Look")(look).version
    here, roomy = (tool(runs_in=SandboxPlace(memory_mb=each))(look) for each in (512, 1_024))
    assert here.version == roomy.version


def test_a_method_is_bound_to_the_instance_it_is_read_from():
    one, two = Shop({"tea": 3}), Shop({"tea": 4})
    assert set(properties(one.price)) == {"item"}
    assert (call(one.price, item="tea"), call(two.price, item="tea")) == (3, 4)
    assert one.price("tea") == 3
    assert one.price.validator is Shop.price.validator
    assert one.price.version == Shop.price.version
    known, short = one.price.checks
    assert known.function(item="tea") is None
    assert known.function(item="milk") == "There is no milk."
    assert short.function(item="milk") is None
    assert binding_of(one.restock).is_async
    assert binding_of(one.restock).context_parameter == "ctx"


def test_a_method_without_its_object_is_refused_by_a_toolset():
    with pytest.raises(DefinitionError, match="a method without its object"):
        Toolset([Shop.price])
    with pytest.raises(DefinitionError, match="a method without its object"):
        Toolset([Shop.plain])
    assert Toolset([Shop({}).price, Shop({}).plain]).names == ("price", "plain")


def test_static_and_class_methods():
    shop = Shop({})
    assert call(shop.add, a=1, b=2) == 3
    assert call(Shop.add, a=1, b=2) == 3
    assert call(tool(Shop.subtract), a=5, b=2) == 3
    assert call(Shop.make, item="x") == "Shop:x"
    assert call(shop.make, item="x") == "Shop:x"
    assert Toolset([Shop.add, Shop.make]).names == ("add", "make")


def test_a_partial_hides_what_is_bound():
    def search(index: str, query: str, limit: int = 3, *, key: str) -> Any:
        """Search an index.

        Args:
            index: Bound.
            query: What for.
            key: Bound.
        """
        return index, query, limit, key

    made = tool(functools.partial(functools.partial(search, "docs"), key="secret"))
    assert made.name == "search"
    assert set(properties(made)) == {"query", "limit"}
    assert call(made, query="x") == ("docs", "x", 3, "secret")


def test_an_object_with_call_is_named_after_its_class():
    class OrderFinder:
        """Find orders by customer."""

        def __call__(self, customer: str) -> str:
            return customer

    class Slow:
        async def __call__(self, a: int) -> int:
            """Wait for it."""
            return a

    made = tool(OrderFinder())
    assert (made.name, made.description) == ("order_finder", "Find orders by customer.")
    assert call(made, customer="x") == "x"
    slow = tool(name="slow_one")(Slow())
    assert (slow.name, slow.description, binding_of(slow).is_async) == ("slow_one", "Wait for it.", True)


def test_a_decorated_function_shows_the_signature_of_the_inner_one():
    def twice(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return [function(*args, **kwargs)] * 2

        return wrapper

    @tool
    @twice
    def f(day: date) -> str:
        """Say a day."""
        return day.isoformat()

    assert call(f, day="2025-01-02") == ["2025-01-02"] * 2


@pytest.mark.parametrize("wrong", [int, 5, "text", print, BaseModel])
def test_what_is_no_function_is_refused(wrong: Any):
    with pytest.raises(DefinitionError):
        tool(wrong)


def test_a_tool_cannot_be_made_twice():
    @tool
    def f() -> None:
        """Do it."""

    with pytest.raises(DefinitionError, match="is a tool already"):
        tool(f)


def test_a_list_of_functions_is_a_toolset():
    def first(a: Sequence[str]) -> None:
        """Do the first thing."""

    @tool(name="second")
    def other() -> None:
        """Do the second thing."""

    toolset = Toolset([first, other])
    assert toolset.names == ("first", "second")
    assert "first" in toolset
    assert toolset["second"] is other
    assert toolset.get("third") is None
    assert len(toolset + Toolset([tool(name="third")(first)])) == 3
    with pytest.raises(DefinitionError, match="Two tools are named 'first'"):
        Toolset([first, first])
