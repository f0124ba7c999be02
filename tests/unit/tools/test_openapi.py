"""Tools from OpenAPI documents: names, schemas, effects, credentials."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callbox import Toolset
from callbox.errors import ConfigurationError, DefinitionError
from callbox.tools.openapi import HttpBinding
from callbox.tools.tool import Tool

SHOP: dict[str, Any] = {
    "openapi": "3.0.3",
    "info": {"title": "Tea shop", "version": "1"},
    "servers": [{"url": "https://{region}.tea.example/v1/", "variables": {"region": {"default": "eu"}}}],
    "security": [{"key": []}],
    "tags": [{"name": "orders"}],
    "paths": {
        "/teas": {
            "get": {
                "operationId": "listTeas",
                "summary": "List teas.",
                "description": "Sorted by name.",
                "tags": ["teas"],
                "parameters": [
                    {"name": "kind", "in": "query", "schema": {"$ref": "#/components/schemas/Kind"}},
                    {"$ref": "#/components/parameters/Limit"},
                    {"name": "filter", "in": "query", "style": "deepObject", "schema": {"type": "object"}},
                    {"name": "X-Trace-Id", "in": "header", "schema": {"type": "string"}, "description": "For logs."},
                    {"name": "Authorization", "in": "header", "schema": {"type": "string"}},
                    {"name": "session", "in": "cookie", "schema": {"type": "string"}},
                    {"name": "shop_key", "in": "query", "required": True, "schema": {"type": "string"}},
                    {
                        "name": "where",
                        "in": "query",
                        "content": {"application/json": {"schema": {"type": "array", "items": {"type": "number"}}}},
                    },
                ],
            },
            "post": {
                "operationId": "add tea!",
                "summary": "Add a tea",
                "description": "Add a tea to the shelf.",
                "tags": ["teas"],
                "requestBody": {"$ref": "#/components/requestBodies/Tea"},
            },
        },
        "/teas/{tea_id}": {
            "parameters": [
                {
                    "name": "tea_id",
                    "in": "path",
                    "required": True,
                    "description": "The tea.",
                    "schema": {"type": "integer", "format": "int64"},
                }
            ],
            "get": {"summary": "Show one tea.", "security": []},
            "put": {
                "operationId": "replaceTea",
                "parameters": [{"name": "tea_id", "in": "path", "required": True, "schema": {"type": "string"}}],
                "requestBody": {
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Tea"}}},
                    "description": "All of it.",
                },
            },
            "delete": {"operationId": "removeTea", "description": "Take a tea off the shelf.", "tags": ["admin"]},
        },
        "/orders": {
            "post": {
                "operationId": "listTeas",
                "description": "Order teas.",
                "tags": ["orders"],
                "security": [{"login": []}, {"key": [], "token": []}],
                "parameters": [{"name": "Idempotency-Key", "in": "header", "schema": {"type": "string"}}],
                "requestBody": {
                    "required": True,
                    "content": {
                        "text/plain": {"schema": {"type": "string"}},
                        "application/vnd.tea+json; charset=utf-8": {
                            "schema": {
                                "allOf": [
                                    {"$ref": "#/components/schemas/Base"},
                                    {"type": "object", "properties": {"note": {"type": "string", "nullable": True}}},
                                ]
                            }
                        },
                    },
                },
            }
        },
        "x-internal": {"get": {}},
    },
    "components": {
        "parameters": {
            "Limit": {
                "name": "limit",
                "in": "query",
                "schema": {"type": "integer", "minimum": 0, "exclusiveMinimum": True, "maximum": 100, "default": 20},
            }
        },
        "requestBodies": {
            "Tea": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Tea"}}},
            }
        },
        "schemas": {
            "Kind": {"type": "string", "enum": ["green", "black"], "example": "green"},
            "Tea": {
                "type": "object",
                "required": ["id", "name"],
                "properties": {
                    "id": {"type": "integer", "readOnly": True},
                    "name": {"type": "string", "xml": {"name": "n"}, "x-order": 1},
                    "kind": {"$ref": "#/components/schemas/Kind", "description": "ignored in 3.0"},
                    "price": {"type": "number", "nullable": True, "maximum": 9, "exclusiveMaximum": False},
                    "blend": {"type": "array", "items": {"$ref": "#/components/schemas/Tea"}},
                    "grower": {"allOf": [{"$ref": "#/components/schemas/Base"}], "nullable": True},
                },
            },
            "Base": {
                "type": "object",
                "properties": {"ref": {"type": "string"}},
                "discriminator": {"propertyName": "ref"},
            },
        },
        "securitySchemes": {
            "key": {"type": "apiKey", "in": "query", "name": "shop_key"},
            "token": {"$ref": "#/components/securitySchemes/bearer"},
            "bearer": {"type": "http", "scheme": "Bearer"},
            "login": {"type": "http", "scheme": "basic"},
            "cookie": {"type": "apiKey", "in": "cookie", "name": "sid"},
            "oauth": {"type": "oauth2", "flows": {}},
            "mutual": {"type": "mutualTLS"},
        },
    },
}


def shop(**options: Any) -> Toolset:
    return Toolset.from_openapi(deepcopy(SHOP), **options)


def binding_of(made: Tool) -> HttpBinding:
    assert isinstance(made.binding, HttpBinding)
    return made.binding


def minimal(operation: Any = None, path: str = "/x", version: str = "3.1.0", **more: Any) -> dict[str, Any]:
    return {
        "openapi": version,
        "servers": [{"url": "https://x.example"}],
        "paths": {path: {"post": operation or {"operationId": "x", "summary": "Do x."}}},
        **more,
    }


def only(document: dict[str, Any], **options: Any) -> Tool:
    (made,) = Toolset.from_openapi(document, **options)
    return made


def with_body(schema: Any, media_type: str = "application/json", version: str = "3.1.0", **more: Any) -> Tool:
    body = {"required": True, "content": {media_type: {"schema": schema}}, **more}
    return only(minimal({"operationId": "x", "summary": "Do x.", "requestBody": body}, version=version))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(inner for key, item in items for inner in places(item, (*path, key)))]


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from(["", "x", "#/paths", "#", "https://x.example/y"]),
    st.sampled_from([[], {}, [None], {"$ref": "#"}, {"$ref": "#/components/schemas/Tea"}, {"": {}}, [[]], {"get": 5}]),
)


@given(st.sampled_from([each for each in places(SHOP) if each]), ODD)
def test_a_document_with_one_odd_value_makes_tools_or_is_refused(path: tuple[Any, ...], odd: Any):
    document = deepcopy(SHOP)
    here: Any = document
    for step in path[:-1]:
        here = here[step]
    here[path[-1]] = deepcopy(odd)
    try:
        made = Toolset.from_openapi(document, base_url="https://x.example", auth={"key": "k"})
    except (DefinitionError, ConfigurationError):
        return
    assert all(isinstance(each.binding, HttpBinding) for each in made)


# Operations


def test_each_operation_is_a_tool_with_the_effect_of_its_method():
    assert [(each.name, each.effect, each.idempotent) for each in shop()] == [
        ("listTeas", "read", True),
        ("add_tea", "write", False),
        ("get_teas_tea_id", "read", True),
        ("replaceTea", "write", True),
        ("removeTea", "destructive", True),
        ("listTeas_2", "write", True),
    ]


def test_descriptions_come_from_summary_and_description():
    assert [each.description for each in shop()] == [
        "List teas.\n\nSorted by name.",
        "Add a tea to the shelf.",
        "Show one tea.",
        "PUT /teas/{tea_id}",
        "Take a tea off the shelf.",
        "Order teas.",
    ]


def test_a_document_may_be_text():
    assert Toolset.from_openapi(json.dumps(SHOP), name="shop").names == shop().names


def test_operations_are_chosen_by_name_and_tag():
    assert shop(include=["listTeas"]).names == ("listTeas",)
    assert shop(include="*[Tt]ea*", exclude=["get_*", "listTeas*"]).names == (
        "add_tea",
        "replaceTea",
        "removeTea",
    )
    assert shop(include=["add tea!"]).names == ("add_tea",)
    assert shop(tags=["admin", "orders"]).names == ("removeTea", "listTeas_2")
    assert shop(tags=[]).names == ()


def test_long_names_stay_valid_and_unique():
    document = minimal()
    document["paths"] = {f"/{'a' * 80}/{number}": {"get": {}} for number in range(11)}
    names = Toolset.from_openapi(document).names
    assert len(set(names)) == 11
    assert max(map(len, names)) == 64


def test_the_address_is_the_documents_first_server_or_what_is_given():
    assert binding_of(shop()["listTeas"]).base_url == "https://eu.tea.example/v1"
    assert binding_of(shop(base_url="http://localhost:8000/")["listTeas"]).base_url == "http://localhost:8000"


@pytest.mark.parametrize(
    "url", ["", "/v1", "ftp://x.example", "https://", "https://u:p@x.example", "https://x.example?a=1", "x#y"]
)
def test_a_base_url_must_be_one(url: str):
    with pytest.raises(ConfigurationError):
        shop(base_url=url)
    with pytest.raises(ConfigurationError):
        only({**minimal(), "servers": [{"url": url}]})
    with pytest.raises(ConfigurationError, match="Pass base_url="):
        only({**minimal(), "servers": []})


# Parameters


def test_parameters_become_arguments():
    made = shop(auth={"key": "k"})["listTeas"]
    assert made.parameters == {
        "type": "object",
        "properties": {
            "kind": {"$ref": "#/$defs/Kind"},
            "limit": {"type": "integer", "maximum": 100, "default": 20, "exclusiveMinimum": 0},
            "filter": {"type": "object"},
            "X-Trace-Id": {"type": "string", "description": "For logs."},
            "session": {"type": "string"},
            "where": {"type": "array", "items": {"type": "number"}},
        },
        "additionalProperties": False,
        "$defs": {"Kind": {"type": "string", "enum": ["green", "black"], "examples": ["green"]}},
    }
    where = {each.name: (each.place, each.wire_name, each.style, each.explode) for each in binding_of(made).arguments}
    assert where == {
        "kind": ("query", "kind", "form", True),
        "limit": ("query", "limit", "form", True),
        "filter": ("query", "filter", "deepObject", False),
        "X-Trace-Id": ("header", "X-Trace-Id", "simple", False),
        "session": ("cookie", "session", "form", True),
        "where": ("query", "where", "json", False),
    }


def test_a_credential_is_not_asked_from_the_model():
    assert "shop_key" not in shop(auth={"key": "k"})["listTeas"].parameters["properties"]
    assert shop()["listTeas"].parameters["required"] == ["shop_key"]


def test_an_operations_parameter_replaces_the_paths():
    made = shop()
    assert made["get_teas_tea_id"].parameters["properties"]["tea_id"] == {
        "type": "integer",
        "format": "int64",
        "description": "The tea.",
    }
    assert made["replaceTea"].parameters["properties"]["tea_id"] == {"type": "string"}


def test_a_path_parameter_that_nobody_declared_is_a_text():
    made = only(minimal(path="/a/{b}/c/{b}"))
    assert made.parameters["properties"] == {"b": {"type": "string"}}
    assert made.parameters["required"] == ["b"]


def test_names_that_vendors_refuse_or_that_meet_are_mapped():
    parameters = [
        {"name": name, "in": place, "schema": {"type": "string"}}
        for name, place in [
            ("filter[a]", "query"),
            ("id", "query"),
            ("id", "header"),
            ("id", "cookie"),
            ("???", "query"),
        ]
    ]
    parameters += [{"name": "id", "in": "path", "required": True, "schema": {}}]
    parameters += [{"name": f"id_path{'!' * each}", "in": "query", "schema": {}} for each in range(2)]
    made = only(minimal({"parameters": parameters}, path="/{id}"))
    assert {each.name: (each.place, each.wire_name) for each in binding_of(made).arguments} == {
        "filter_a": ("query", "filter[a]"),
        "id": ("query", "id"),
        "id_header": ("header", "id"),
        "id_cookie": ("cookie", "id"),
        "query": ("query", "???"),
        "id_path": ("path", "id"),
        "id_path_query": ("query", "id_path"),
        "id_path_query_2": ("query", "id_path!"),
    }


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ({"name": "a", "in": "body"}, "is in 'body'"),
        ({"in": "query"}, "None is in 'query'"),
        ({"name": "a", "in": "query", "style": "matrix"}, "cannot have style 'matrix'"),
        ({"$ref": "#/components/nothing"}, "not in it"),
        ({"$ref": "https://x.example/p.json"}, "nothing is fetched"),
        (5, "5 where an object belongs"),
        ({"name": "a", "in": "query", "schema": {"pattern": "(?!a)"}}, "cannot be used"),
    ],
)
def test_a_wrong_parameter_is_refused_with_the_operation_and_a_way_out(parameter: Any, message: str):
    with pytest.raises(DefinitionError, match=message) as caught:
        only(minimal({"operationId": "x", "parameters": [parameter]}))
    assert "POST /x" in caught.value.message
    assert "exclude=['x']" in (caught.value.hint or "")


# Bodies


def test_a_body_object_is_spread_over_the_arguments():
    made = shop()["add_tea"]
    assert made.parameters["properties"] == {
        "name": {"type": "string"},
        "kind": {"$ref": "#/$defs/Kind"},
        "price": {"type": ["number", "null"], "maximum": 9},
        "blend": {"type": "array", "items": {"$ref": "#/$defs/Tea"}},
        "grower": {"anyOf": [{"allOf": [{"$ref": "#/$defs/Base"}]}, {"type": "null"}]},
    }
    assert made.parameters["required"] == ["name"]
    assert set(made.parameters["$defs"]) == {"Kind", "Tea", "Base"}
    assert made.parameters["$defs"]["Tea"]["additionalProperties"] is False
    assert "additionalProperties" not in made.parameters["$defs"]["Base"]  # inside a composition
    assert {each.place for each in binding_of(made).arguments} == {"body"}
    assert made.validator.is_valid({"name": "x", "blend": [{"name": "y", "blend": []}], "price": None})
    assert not made.validator.is_valid({"name": "x", "id": 5})


def test_a_body_that_may_be_left_out_is_one_argument():
    made = shop()["replaceTea"]
    assert made.parameters["properties"]["body"] == {"$ref": "#/$defs/Tea", "description": "All of it."}
    assert made.parameters["required"] == ["tea_id"]


def test_a_composed_body_is_one_argument_and_json_is_chosen():
    made = shop()["listTeas_2"]
    assert set(made.parameters["properties"]) == {"body"}
    assert made.parameters["required"] == ["body"]
    binding = binding_of(made)
    assert (binding.body, binding.content_type) == ("json", "application/vnd.tea+json; charset=utf-8")
    assert binding.idempotency_header == "Idempotency-Key"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {}},
        {"type": "object"},
        {"type": "object", "properties": {}},
        {"type": "object", "properties": {"a": {}}, "additionalProperties": {"type": "string"}},
        {"type": "object", "properties": {"a": {}}, "additionalProperties": True},
        {"type": "object", "properties": {"a": {}}, "minProperties": 1},
        {"type": "object", "properties": {"a": {}}, "dependentRequired": {"a": ["b"]}},
        {"type": ["object", "null"], "properties": {"a": {}}},
        True,
    ],
)
def test_a_body_that_spreading_would_change_is_one_argument(schema: Any):
    made = with_body(schema)
    assert list(made.parameters["properties"]) == ["body"]
    assert binding_of(made).arguments[0].wire_name == ""


def test_a_body_whose_names_meet_parameters_is_one_argument():
    operation = {
        "operationId": "x",
        "parameters": [{"name": "id", "in": "query", "schema": {}}, {"name": "body", "in": "query", "schema": {}}],
        "requestBody": {"content": {"*/*": {"schema": {"type": "object", "properties": {"id": {}}}}}},
    }
    made = only(minimal(operation))
    assert list(made.parameters["properties"]) == ["id", "body", "body_body"]
    assert binding_of(made).content_type == "application/json"


@pytest.mark.parametrize(
    ("media_type", "kind", "names"),
    [
        ("application/json; charset=utf-8", "json", ["a"]),
        ("application/problem+json", "json", ["a"]),
        ("application/x-www-form-urlencoded", "form", ["a"]),
        ("multipart/form-data", "multipart", ["a"]),
        ("text/csv", "raw", ["body"]),
    ],
)
def test_media_types(media_type: str, kind: str, names: list[str]):
    made = with_body({"type": "object", "properties": {"a": {"type": "string"}}}, media_type)
    assert binding_of(made).body == kind
    assert list(made.parameters["properties"]) == names
    if kind == "raw":
        assert made.parameters["properties"]["body"] == {"type": "string"}


def test_a_body_without_content_is_none():
    made = only(minimal({"summary": "Do x.", "requestBody": {"content": {}}}))
    assert binding_of(made).body == "none"


# Schemas


def test_3_1_schemas_are_taken_as_they_are():
    document = minimal(
        {
            "summary": "Do x.",
            "requestBody": {
                "content": {
                    "application/json": {
                        "schema": {
                            "properties": {
                                "a": {"type": ["string", "null"], "examples": ["x"]},
                                "b": {"$ref": "#/components/schemas/B", "description": "Nearer."},
                                "c": {"exclusiveMinimum": 3, "example": 4},
                                "d": {"nullable": True, "type": "string", "examples": {"x": {"value": 1}}},
                            }
                        }
                    }
                }
            },
        },
        components={"schemas": {"B": {"const": 1}}},
    )
    assert only(document).parameters["properties"] == {
        "a": {"type": ["string", "null"], "examples": ["x"]},
        "b": {"$ref": "#/$defs/B", "description": "Nearer."},
        "c": {"exclusiveMinimum": 3, "examples": [4]},
        "d": {"type": "string"},
    }


def test_definitions_of_one_name_from_two_places_stay_apart():
    document = minimal(
        {
            "summary": "Do x.",
            "parameters": [
                {"name": "a", "in": "query", "schema": {"$ref": "#/components/schemas/Thing"}},
                {"name": "b", "in": "query", "schema": {"$ref": "#/components/x-old/Thing"}},
                {"name": "c", "in": "query", "schema": {"$ref": "#/components/schemas/Odd%20na~1me"}},
            ],
        },
        components={"schemas": {"Thing": {"const": 1}, "Odd na/me": {"const": 3}}, "x-old": {"Thing": {"const": 2}}},
    )
    made = only(document)
    assert made.parameters["$defs"] == {"Thing": {"const": 1}, "Thing_2": {"const": 2}, "Odd_20na_1me": {"const": 3}}
    assert made.validator.is_valid({"a": 1, "b": 2, "c": 3})
    assert not made.validator.is_valid({"b": 1})


def test_objects_may_stay_open():
    nested = {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {}}}}}
    assert with_body(nested).parameters["properties"]["a"]["additionalProperties"] is False
    document = minimal({"summary": "Do x.", "requestBody": {"content": {"application/json": {"schema": nested}}}})
    made = only(document, close=False)
    assert "additionalProperties" not in made.parameters["properties"]["a"]
    assert "additionalProperties" not in made.parameters


@pytest.mark.parametrize(
    "schemas",
    [
        {"A": {"$ref": "#/components/schemas/A"}},
        {"A": {"allOf": [{"$ref": "#/components/schemas/B"}]}, "B": {"anyOf": [{"$ref": "#/components/schemas/A"}]}},
        {f"{'A' * (n == 0)}a{n}": {"allOf": [{"$ref": f"#/components/schemas/a{n + 1}"}] * 2} for n in range(1, 40)}
        | {"A": {"$ref": "#/components/schemas/a1"}, "a40": {}},
        {"A": {"$ref": "other.json"}},
        {"A": {"$ref": "#/components/schemas/Missing"}},
    ],
)
@pytest.mark.parametrize("version", ["3.0.0", "3.1.0"])
def test_hostile_schemas_are_refused_and_do_not_hang(schemas: dict[str, Any], version: str):
    operation = {
        "operationId": "x",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/A"}}},
        },
    }
    with pytest.raises(DefinitionError, match="POST /x"):
        only(minimal(operation, version=version, components={"schemas": schemas}))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("openapi: 3.0.0", "yaml.safe_load"),
        ("[]", "not an object"),
        ({"swagger": "2.0"}, "Convert it to OpenAPI 3"),
        ({}, "no OpenAPI 3 document"),
        ({"openapi": "4.0.0"}, "no OpenAPI 3 document"),
        (minimal(path="/x") | {"paths": []}, ""),
        (minimal(path="/x") | {"paths": {"/x": {"$ref": "#/paths/~1x"}}}, "leads back to itself"),
        (minimal(path="/x") | {"paths": {"/x": "text"}}, "where an object belongs"),
    ],
)
def test_what_is_no_document_is_refused(document: Any, message: str):
    if document and isinstance(document, dict) and document.get("paths") == []:
        assert Toolset.from_openapi(document).names == ()
        return
    with pytest.raises(DefinitionError, match=message):
        Toolset.from_openapi(document)


# Credentials


def credentials(made: Tool) -> list[tuple[str, str, Any, str]]:
    return [(each.place, each.name, each.secret, each.prefix) for each in binding_of(made).credentials]


def test_credentials_by_the_name_of_the_scheme():
    made = shop(auth={"key": "k", "token": "t"})
    assert credentials(made["listTeas"]) == [("query", "shop_key", "k", "")]
    assert credentials(made["get_teas_tea_id"]) == []
    assert credentials(made["listTeas_2"]) == [
        ("query", "shop_key", "k", ""),
        ("header", "Authorization", "t", "Bearer "),
    ]
    login = shop(auth={"login": ("user", "pa:ss"), "cookie": "c"})["listTeas_2"]
    assert credentials(login) == [("header", "Authorization", "dXNlcjpwYTpzcw==", "Basic ")]


def test_one_credential_goes_where_it_fits():
    assert credentials(shop(auth="k")["listTeas"]) == [("query", "shop_key", "k", "")]
    assert credentials(shop(auth=("u", "p"))["listTeas"]) == []
    assert credentials(shop(auth=("u", "p"))["listTeas_2"]) == [("header", "Authorization", "dTpw", "Basic ")]

    def token() -> str:
        return "fresh"

    assert credentials(shop(auth=token)["listTeas"]) == [("query", "shop_key", token, "")]


def test_without_schemes_a_credential_goes_everywhere():
    assert credentials(only(minimal(), auth="t")) == [("header", "Authorization", "t", "Bearer ")]
    assert credentials(only(minimal(), auth=("u", "p"))) == [("header", "Authorization", "dTpw", "Basic ")]


@pytest.mark.parametrize(
    ("auth", "message"),
    [
        ({"nothing": "k"}, "no security scheme 'nothing'.*It has: key, token"),
        ({"login": "k"}, "do not fit security scheme 'login' .http basic."),
        ({"key": ("u", "p")}, "do not fit security scheme 'key'"),
        ({"mutual": "k"}, "do not fit security scheme 'mutual'"),
    ],
)
def test_credentials_that_do_not_fit_are_refused(auth: Any, message: str):
    with pytest.raises(ConfigurationError, match=message):
        shop(auth=auth)


def test_a_credential_that_fits_no_scheme_is_refused():
    schemes = {"securitySchemes": {"mutual": {"type": "mutualTLS"}}}
    with pytest.raises(ConfigurationError, match=r"fit none.*mutual \(mutualTLS\)"):
        only(minimal(components=schemes), auth="k")


def test_secrets_are_in_no_repr():
    made = shop(auth={"key": "s3cret", "login": ("u", "s3cret")}, headers={"X-Api": "s3cret"})
    assert "s3cret" not in repr([*made])
    assert all(dict(binding_of(each).headers) == {"X-Api": "s3cret"} for each in made)


def test_an_operation_that_moved_is_another_version() -> None:
    def version(**more: Any) -> str:
        [made] = Toolset.from_openapi(minimal(**more))
        return made.version

    versions = {version(), version(path="/y"), version(servers=[{"url": "https://y.example"}])}
    assert len(versions) == 3
    assert version() in versions
