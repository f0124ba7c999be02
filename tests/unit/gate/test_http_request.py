"""Writing an HTTP request from arguments: OpenAPI's styles, and values that try to get out of their place."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callbox.errors import Rejected
from callbox.gate.runners.http_request import HttpRequest, build_request
from callbox.tools.http_binding import Credential, HttpArgument, HttpBinding

COLORS = ["blue", "black", "brown"]
RGB = {"R": 100, "G": 200, "B": 150}


def binding(*arguments: HttpArgument, path: str = "/x", **more: Any) -> HttpBinding:
    return HttpBinding("POST", "https://api.example/v1", path, arguments, **more)


def build(made: HttpBinding, **arguments: Any) -> HttpRequest:
    return build_request(made, arguments, "key-1")


def query_of(style: str, value: Any, *, explode: bool, **more: Any) -> str:
    argument = HttpArgument("color", "query", "color", style, explode, **more)  # type: ignore[arg-type]
    return urlsplit(build(binding(argument), color=value).url).query


@pytest.mark.parametrize(
    ("style", "explode", "value", "expected"),
    # The rows of the table "Style Examples" of OpenAPI 3.1, and what it leaves out.
    [
        ("form", False, "", "color="),
        ("form", False, "blue", "color=blue"),
        ("form", False, COLORS, "color=blue,black,brown"),
        ("form", False, RGB, "color=R,100,G,200,B,150"),
        ("form", True, "blue", "color=blue"),
        ("form", True, COLORS, "color=blue&color=black&color=brown"),
        ("form", True, RGB, "R=100&G=200&B=150"),
        ("spaceDelimited", False, COLORS, "color=blue%20black%20brown"),
        ("spaceDelimited", False, RGB, "color=R%20100%20G%20200%20B%20150"),
        ("pipeDelimited", False, COLORS, "color=blue%7Cblack%7Cbrown"),
        ("pipeDelimited", False, RGB, "color=R%7C100%7CG%7C200%7CB%7C150"),
        ("spaceDelimited", True, COLORS, "color=blue&color=black&color=brown"),
        ("deepObject", True, RGB, "color[R]=100&color[G]=200&color[B]=150"),
        ("deepObject", False, {"a": {"b": [1, 2]}, "c": "x y"}, "color[a][b]=1&color[a][b]=2&color[c]=x%20y"),
        ("deepObject", False, "blue", "color=blue"),
        ("json", False, {"a": [1, None]}, "color=%7B%22a%22%3A%5B1%2Cnull%5D%7D"),
        ("form", True, True, "color=true"),
        ("form", True, 5.0, "color=5"),
        ("form", True, 5.5, "color=5.5"),
        ("form", True, [], ""),
        ("form", False, [], ""),
        ("form", False, {}, ""),
        ("form", True, None, ""),
        ("form", True, "a b&c=d#e+ü", "color=a%20b%26c%3Dd%23e%2B%C3%BC"),
        ("form", False, ["a,b", "c"], "color=a%2Cb,c"),
    ],
)
def test_query_styles(style: str, explode: bool, value: Any, expected: str):
    assert query_of(style, value, explode=explode) == expected


def test_reserved_characters_stay_where_they_are_allowed():
    assert query_of("form", "a/b?c:d&e#f", explode=True, allow_reserved=True) == "color=a/b?c:d%26e%23f"


@pytest.mark.parametrize(
    ("style", "explode", "value", "expected"),
    [
        ("simple", False, "blue", "/x/blue"),
        ("simple", False, COLORS, "/x/blue,black,brown"),
        ("simple", False, RGB, "/x/R,100,G,200,B,150"),
        ("simple", True, RGB, "/x/R=100,G=200,B=150"),
        ("label", False, "blue", "/x/.blue"),
        ("label", False, COLORS, "/x/.blue,black,brown"),
        ("label", True, COLORS, "/x/.blue.black.brown"),
        ("label", True, RGB, "/x/.R=100.G=200.B=150"),
        ("matrix", False, "blue", "/x/;color=blue"),
        ("matrix", False, COLORS, "/x/;color=blue,black,brown"),
        ("matrix", True, COLORS, "/x/;color=blue;color=black;color=brown"),
        ("matrix", True, RGB, "/x/;R=100;G=200;B=150"),
        ("matrix", False, RGB, "/x/;color=R,100,G,200,B,150"),
        ("simple", False, 7.0, "/x/7"),
        ("simple", False, "a/b", "/x/a%2Fb"),
        ("simple", False, "a?b#c%2e&d;e ü", "/x/a%3Fb%23c%252e%26d%3Be%20%C3%BC"),
        ("simple", False, "{color}", "/x/%7Bcolor%7D"),
    ],
)
def test_path_styles(style: str, explode: bool, value: Any, expected: str):
    argument = HttpArgument("color", "path", "color", style, explode)  # type: ignore[arg-type]
    url = build(binding(argument, path="/x/{color}"), color=value).url
    assert url == f"https://api.example/v1{expected}"


@pytest.mark.parametrize(
    "value",
    [
        *("", ".", "..", "../admin", "a/../b", "a/./b", "..\\admin", "a\\..\\b", "/etc", "a//b", "a/"),
        *(["a", ".."], [""], {"a": ".."}, {"..": "a"}),
    ],
)
def test_a_path_argument_cannot_climb(value: Any):
    argument = HttpArgument("id", "path", "id")
    with pytest.raises(Rejected, match="part of a URL path") as caught:
        build(binding(argument, path="/pets/{id}"), id=value)
    assert caught.value.path == "/id"


@given(st.text())
def test_no_text_changes_the_shape_of_a_url(text: str):
    path = HttpArgument("p", "path", "p")
    query = HttpArgument("q", "query", "q", "form", explode=True)
    made = binding(path, query, path="/a/{p}/b")
    try:
        url = build(made, p=text, q=text).url
    except Rejected:
        url = build(made, p="x", q=text).url
    except UnicodeEncodeError:
        return  # a lone surrogate, which the gate refuses before
    parts = urlsplit(url)
    assert (parts.scheme, parts.netloc, parts.fragment) == ("https", "api.example", "")
    assert parts.path.count("/") == 4
    assert parse_qsl(parts.query, keep_blank_values=True) == [("q", text)]


def test_a_template_with_odd_characters_is_encoded():
    argument = HttpArgument("a b", "path", "a b")
    assert build(binding(argument, path="/ü/{a b}:go"), **{"a b": "x"}).url == "https://api.example/v1/%C3%BC/x:go"


def test_a_path_without_a_value_keeps_its_template():
    # The schema requires it, so this is the gate's fault and shows as a 404, not as another path.
    assert build(binding(HttpArgument("a", "path", "a"), path="/{a}")).url == "https://api.example/v1/{a}"


# Headers and cookies


def test_headers_are_simple():
    made = binding(
        HttpArgument("a", "header", "X-A"),
        HttpArgument("b", "header", "X-B", explode=True),
        HttpArgument("c", "header", "X-C", "json"),
        headers={"X-Fixed": "1"},
        idempotency_header="Idempotency-Key",
    )
    request = build(made, a=COLORS, b=RGB, c={"d": [1]})
    assert request.headers == [
        ("X-A", "blue,black,brown"),
        ("X-B", "R=100,G=200,B=150"),
        ("X-C", '{"d":[1]}'),
        ("X-Fixed", "1"),
        ("Idempotency-Key", "key-1"),
    ]


@pytest.mark.parametrize("text", ["a\r\nHost: evil", "a\nb", "a\rb", "a\x00b", "a\x7fb", "a\tb"])
def test_a_header_argument_cannot_begin_another_header(text: str):
    for value in (text, [text], {"k": text}):
        with pytest.raises(Rejected, match="no control characters") as caught:
            build(binding(HttpArgument("a", "header", "X-A")), a=value)
        assert caught.value.path == "/a"


def test_cookies():
    made = binding(
        HttpArgument("a", "cookie", "a", "form", explode=True),
        HttpArgument("b", "cookie", "b", "form"),
        HttpArgument("c", "cookie", "c", "form", explode=True),
        HttpArgument("d", "cookie", "d", "json"),
        HttpArgument("e", "cookie", "e", "form", explode=True),
        credentials=(Credential("cookie", "sid", "s;1"),),
    )
    request = build(made, a="x; admin=1\r\n", b=[1, 2], c={"k": "v"}, d=[1], e=None)
    assert request.headers == [("cookie", "a=x%3B%20admin=1%0D%0A; b=1,2; k=v; d=[1]; sid=s%3B1")]
    assert build(made, c=["x", "y"]).headers == [("cookie", "c=x; c=y; sid=s%3B1")]


def test_credentials():
    made = binding(
        HttpArgument("q", "query", "q", "form"),
        credentials=(
            Credential("query", "api key", "k&1"),
            Credential("header", "Authorization", lambda: "fresh", "Bearer "),
        ),
    )
    request = build(made, q=1)
    assert request.url == "https://api.example/v1/x?q=1&api%20key=k%261"
    assert request.headers == [("Authorization", "Bearer fresh")]
    assert set(request.secrets) == {"k&1", "k%261", "fresh"}
    assert "fresh" not in repr(request)
    assert "k&1" not in repr(request)


# Bodies


def body(name: str, wire_name: str) -> HttpArgument:
    return HttpArgument(name, "body", wire_name)


def test_a_json_body():
    request = build(binding(body("a", "a"), body("b_", "b[]"), body("c", "c"), body="json"), a="ü", b_=[1.5, 2.0, None])
    assert request.content == '{"a":"ü","b[]":[1.5,2,null]}'.encode()
    assert request.headers == [("content-type", "application/json")]


def test_a_whole_body():
    made = binding(body("body", ""), body="json", content_type="application/merge-patch+json")
    assert build(made, body=[1]).content == b"[1]"
    assert build(made, body=None).content == b"null"
    assert build(made).content is None
    assert build(made).headers == []


def test_a_form_body():
    made = binding(body("body", ""), body="form", content_type="application/x-www-form-urlencoded")
    request = build(made, body={"a": "x y&z", "b": [1, 2.0], "c": {"d": True}, "e": True})
    assert request.content == b"a=x+y%26z&b=1&b=2&c=%7B%22d%22%3Atrue%7D&e=true"
    assert build(made, body="text").content == b""


def test_a_multipart_body():
    made = binding(body("a", "a"), body("b", "b"), body="multipart", content_type="multipart/form-data")
    request = build(made, a="x", b=[1, 2])
    assert request.fields == [("a", "x"), ("b", "1"), ("b", "2")]
    assert request.content is None
    assert request.headers == []  # the client writes it, with the boundary


def test_a_raw_body():
    made = binding(body("body", ""), body="raw", content_type="text/csv")
    assert build(made, body="a,b\n").content == b"a,b\n"
    assert build(made, body="a").headers == [("content-type", "text/csv")]
