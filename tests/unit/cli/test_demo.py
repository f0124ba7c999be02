"""`callbox demo` as a person meets it: who reviews, where tests run, who approves. The tests run without isolation."""

from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

import callbox.cli.demo as demo
from callbox.cli.main import app
from callbox.errors import HostUnsuited
from support_review import make_pull_request

KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY")


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    for key in KEYS:
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("CALLBOX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # Our own run under coverage must not measure the tests of the tests.
    monkeypatch.delenv("COVERAGE_PROCESS_START", raising=False)
    make_pull_request(tmp_path / "repo")


def run(tmp_path, *options: str):
    arguments = ["demo", "--repo", str(tmp_path / "repo"), "--head", "feature", *options]
    return CliRunner().invoke(app, arguments)


def test_with_yes_the_review_is_posted_and_both_are_announced(tmp_path):
    result = run(tmp_path, "--unsafe-local", "--yes")
    assert result.exit_code == 0, result.output
    assert "scripted: no key for a model is set" in result.stderr
    assert "WITHOUT ANY ISOLATION" in result.stderr
    assert "because you said --yes" in result.stderr
    assert result.stdout.startswith("# Review of repo, feature: Round on demand")
    assert "| head | passed | 2 | 0 | 0 | 0 |" in result.stdout
    posted = tmp_path / "repo" / "review-feature.md"
    assert posted.read_text().strip() in result.stdout


def test_where_nobody_can_be_asked_the_review_waits_and_the_next_steps_are_told(tmp_path):
    result = run(tmp_path, "--unsafe-local")
    assert result.exit_code == 0, result.output
    assert "callbox approvals approve apr_" in result.stderr
    assert result.stdout.startswith("# Review of repo")
    assert not (tmp_path / "repo" / "review-feature.md").exists()
    again = run(tmp_path, "--unsafe-local", "--yes", "--out", str(tmp_path / "out.md"))
    assert "goes on" in again.stderr
    assert (tmp_path / "out.md").exists()


def test_a_review_that_was_posted_elsewhere_before_is_said_to_be_there(tmp_path):
    first = run(tmp_path, "--unsafe-local", "--yes")
    again = run(tmp_path, "--unsafe-local", "--yes", "--out", str(tmp_path / "out.md"))
    said = f"before, to {tmp_path / 'repo' / 'review-feature.md'}, and not again: {tmp_path / 'out.md'} was not written"
    assert said in again.stderr
    assert not (tmp_path / "out.md").exists()
    for other in (first, run(tmp_path, "--unsafe-local", "--yes")):
        assert "was not written" not in other.stderr


def test_a_host_without_sandboxes_is_refused_with_the_fix_and_the_way_around(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_make_image", lambda: None)
    monkeypatch.setattr(sys, "path", [*sys.path])
    demo._example()
    from pr_review.places import SandboxPlace

    async def no_driver(self):
        raise HostUnsuited("No driver works here.", hint="apt-get install runsc")

    monkeypatch.setattr(SandboxPlace, "open", no_driver)
    result = run(tmp_path)
    assert result.exit_code == 1
    assert "apt-get install runsc" in result.stderr
    assert "--unsafe-local" in result.stderr


@pytest.mark.parametrize(
    ("key", "model"),
    [("OPENAI_API_KEY", "openai:"), ("ANTHROPIC_API_KEY", "anthropic:"), ("GOOGLE_API_KEY", "gemini:")],
)
def test_a_key_chooses_the_model_and_that_is_announced(monkeypatch, capsys, key, model):
    monkeypatch.setenv(key, "secret")
    reviewer = demo._reviewer(demo._example()("main"), None)
    said = capsys.readouterr().err
    assert reviewer.model.startswith(model)
    assert f"because {key} is set" in said
    assert "secret" not in said


def test_a_key_without_its_package_leaves_the_scripted_reviewer(monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    assert demo._reviewer(demo._example()("main"), None).model is None
    assert 'pip install "callbox[openai]"' in capsys.readouterr().err


def test_a_repository_that_is_none_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    result = CliRunner().invoke(app, ["demo", "--repo", str(tmp_path / "empty"), "--unsafe-local", "--yes"])
    assert "is no git repository" in " ".join(result.output.split())
    assert result.exit_code == 2


@pytest.mark.parametrize(
    ("repo", "head", "said"),
    [
        ("none", "feature", "no folder"),
        ("repo", "nope", "no commit 'nope'"),
        ("repo", "main", "nothing that main lacks"),
    ],
)
def test_what_cannot_be_reviewed_is_a_wrong_use_and_nothing_is_made_for_it(tmp_path, repo, head, said):
    result = CliRunner().invoke(app, ["demo", "--repo", str(tmp_path / repo), "--head", head, "--unsafe-local"])
    assert (result.exit_code, said in " ".join(result.stderr.split())) == (2, True), result.output
    assert not (tmp_path / "home" / "sessions.db").exists()
