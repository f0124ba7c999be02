"""`callbox tools`: what it prints and how it exits."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from callbox.cli.targets import load_target, load_toolset
from callbox.cli.tools import app
from callbox.errors import ConfigurationError, DefinitionError

SHOP = '''
from callbox import Toolset, tool


@tool(effect="read")
def get_weather(city: str) -> str:
    """Get the current weather for a city.

    Args:
        city: Name of the city, like "Paris".
    """
    return ""


@tool
def charge(amount: int) -> str:
    """Charge a credit card with an amount."""
    return ""


class Service:
    @tool
    def run_report(self, name: str) -> str:
        """Run a report."""
        return name


service = Service()
both = Toolset([get_weather, charge])
as_list = [get_weather, service.run_report]
nothing = []
number = 5


def plain(city: str) -> str:
    """Walk through a city with a guide."""
    return city
'''
BAD = """
from callbox import tool


@tool
def f(a: str) -> str:
    return a
"""
GOOD = {
    "name": "pay",
    "description": "Charge a credit card with an amount.",
    "parameters": {"type": "object", "properties": {"amount": {"type": "integer", "description": "In cents."}}},
}


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "the_shop.py").write_text(SHOP)
    (tmp_path / "the_bad.py").write_text(BAD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("the_shop", "the_bad", "the_importer"):
        sys.modules.pop(name, None)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def write(name: str, value: Any) -> str:
    Path(name).write_text(value if isinstance(value, str) else json.dumps(value))
    return name


def test_lint_shows_findings_and_costs():
    done = run("lint", "the_shop:both")
    assert done.exit_code == 0
    assert "undocumented-parameter" in done.output
    assert "0 errors, 1 warning, 0 infos" in done.output
    assert "openai-responses" in done.output
    assert "get_weather" in done.output
    assert "all" in done.output


def test_lint_of_a_good_tool_says_so():
    done = run("lint", write("good.json", [GOOD]))
    assert done.exit_code == 0
    assert "Nothing to improve." in done.output


def test_warnings_fail_only_when_asked():
    assert run("lint", "the_shop:charge").exit_code == 0
    assert run("lint", "the_shop:charge", "--strict").exit_code == 1


def test_lint_as_json():
    done = run("lint", "the_shop:charge", "--json")
    assert done.exit_code == 0
    printed = json.loads(done.output)
    assert set(printed["tools"]["charge"]) == {"openai", "openai-responses", "anthropic", "gemini", "mcp"}
    assert all(count > 10 for count in printed["tools"]["charge"].values())
    assert [each["rule"] for each in printed["findings"]] == ["undocumented-parameter"]


def test_a_wrong_definition_does_not_hide_the_others():
    target = write("mixed.json", {"tools": [GOOD, {"name": "b.c", "description": "Do it."}, {"type": "web_search"}]})
    done = run("lint", target, "--json")
    assert done.exit_code == 1
    printed = json.loads(done.output)
    assert list(printed["tools"]) == ["pay"]
    wrong = [each for each in printed["findings"] if each["rule"] == "invalid-definition"]
    assert [each["tools"] for each in wrong] == [["definition 1"], ["definition 2"]]
    assert 'Use name="b_c"' in wrong[0]["fix"]


def test_control_characters_of_a_definition_do_not_reach_the_terminal():
    evil = {**GOOD, "description": "TODO \x1b]0;owned\x07 \x1b[2J", "name": "pay"}
    done = run("lint", write("evil.json", [evil]))
    assert "\x1b" not in done.output
    assert "\x07" not in done.output
    shown = run("show", "evil.json")
    assert "\x1b" not in shown.output


def test_a_module_that_defines_a_wrong_tool_is_a_finding():
    done = run("lint", "the_bad", "--json")
    assert done.exit_code == 1
    assert json.loads(done.output)["findings"][0]["rule"] == "invalid-definition"


def test_show_prints_definitions():
    done = run("show", "the_shop:get_weather", "--dialect", "anthropic")
    assert done.exit_code == 0
    (printed,) = json.loads(done.stdout)
    assert printed["name"] == "get_weather"
    assert printed["input_schema"]["required"] == ["city"]


def test_show_says_what_a_vendor_cannot_express():
    wide = {**GOOD, "parameters": {"type": "object", "properties": {"a": {"type": "object"}}}}
    done = run("show", write("wide.json", [wide]), "--strict")
    assert done.exit_code == 0
    assert json.loads(done.stdout)
    assert "pay" in done.stderr


def test_show_fails_if_something_could_not_be_shown():
    done = run("show", write("mixed.json", [GOOD, {}]))
    assert done.exit_code == 1
    assert json.loads(done.stdout)[0]["function"]["name"] == "pay"
    assert "definition 1" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lint", "no_such_module"), "There is no module 'no_such_module'"),
        (("lint", "the_shop.deeper"), "There is no module 'the_shop.deeper'"),
        (("lint", "the_shop:missing"), "has no 'missing'"),
        (("lint", "the_shop:nothing"), "There are no tools"),
        (("lint", "missing.json"), "Cannot read 'missing.json'"),
        (("show", "the_shop", "--dialect", "klingon"), "Unknown dialect 'klingon'"),
    ],
)
def test_a_wrong_target_is_said_with_exit_code_2(arguments: tuple[str, ...], message: str):
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr.replace("\n", " ")


def test_a_file_that_is_not_json():
    assert run("lint", write("broken.json", "{")).exit_code == 2


def test_targets():
    def names(target: str) -> list[str]:
        return [each.name for each in load_target(target).tools]

    assert names("the_shop") == ["get_weather", "charge"]
    assert names("the_shop:as_list") == ["get_weather", "run_report"]
    assert names("the_shop:service.run_report") == ["run_report"]
    assert names("the_shop:plain") == ["plain"]
    assert names(write("one.json", GOOD)) == ["pay"]
    document = {"openapi": "3.1.0", "paths": {"/a": {"get": {"operationId": "get_a"}}}}
    assert names(write("api.json", document)) == ["get_a"]
    (wrong,) = load_target(write("old.json", {"swagger": "2.0"})).invalid
    assert wrong[0] == "old.json"
    (wrong,) = load_target("the_shop:number").invalid
    assert "is not a function" in wrong[1].message
    assert load_toolset("the_shop:both").names == ("get_weather", "charge")
    with pytest.raises(DefinitionError):
        load_toolset("the_bad")
    with pytest.raises(ConfigurationError):
        load_toolset("the_shop:nothing")


@pytest.mark.parametrize("command", ["lint", "show"])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import a_module_that_is_missing", "ModuleNotFoundError: No module named 'a_module_that_is_missing'"),
        ("import the_importer.deeper", "ModuleNotFoundError: No module named 'the_importer.deeper'"),
        ("def f(:", "SyntaxError: "),
        ("raise RuntimeError('two\\nlines \\x1b[2J')", "RuntimeError: two lines \ufffd[2J."),
        ("raise SystemExit", "SystemExit."),
    ],
)
def test_a_module_that_cannot_be_imported_is_said_with_exit_code_2(command: str, source: str, message: str):
    Path("the_importer.py").write_text(source)
    done = run(command, "the_importer")
    assert done.exit_code == 2
    assert f"Module 'the_importer' cannot be imported: {message}" in " ".join(done.stderr.split())
    assert "Traceback" not in done.output
