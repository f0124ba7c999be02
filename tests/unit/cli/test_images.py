import json

import pytest
from typer.testing import CliRunner

from callbox.cli import setup as setup_command
from callbox.cli.main import app
from callbox.sandboxes.home import Home
from callbox.sandboxes.images.store import ImageStore


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CALLBOX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CALLBOX_IMAGES", str(tmp_path / "images"))
    monkeypatch.setenv("COLUMNS", "200")
    return Home.default()


def add(home, name, content):
    store = ImageStore(home.images)
    with store.scratch() as work:
        (work / "rootfs").mkdir()
        (work / "rootfs" / "f").write_text(content)
        return store.add(name, work / "rootfs", env={}, source="a [bold]test")


def invoke(*words):
    return CliRunner().invoke(app, ["image", *words])


def test_images_are_listed_removed_and_collected(home):
    used, _ = add(home, "used", "1"), add(home, "unused", "2")
    place = home.sandboxes / "box" / "record.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps({"image": {"digest": used.digest}}))
    assert "a [bold]test" in invoke("list").output
    assert [each["name"] for each in json.loads(invoke("list", "--json").output)] == ["unused", "used"]
    assert invoke("rm", "used", "unused").exit_code == 0
    freed = json.loads(invoke("gc", "--json").output)
    assert freed["images"] == 1
    assert used.folder.exists()


def test_without_images_one_is_told_how_to_get_one(home):
    assert "callbox setup" in invoke("list").output


def test_a_damaged_image_is_found(home):
    image = add(home, "tiny", "1")
    assert invoke("verify", "tiny").exit_code == 0
    (image.folder / "rootfs" / "f").write_text("2")
    result = invoke("verify", "tiny")
    assert result.exit_code == 1
    assert "not what was stored" in result.output


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("rm", "missing"), 1, "no image"),
        (("pull", "python:3"), 2, "HOST/NAME:TAG"),
        (("build", "missing.toml"), 2, "missing.toml"),
        (("import", "missing.tar", "--name", "x"), 1, "missing.tar"),
    ],
)
def test_mistakes_end_with_a_line_and_an_exit_code(home, words, code, said):
    result = invoke(*words)
    assert result.exit_code == code
    assert said in result.output


def test_credentials_need_a_colon_and_are_not_shown(home, monkeypatch):
    monkeypatch.setenv("CALLBOX_REGISTRY_AUTH", "hunter2")
    result = invoke("pull", "registry.invalid/x")
    assert result.exit_code == 2
    assert "hunter2" not in result.output


def test_setup_makes_the_image_and_the_kernel(home, monkeypatch):
    image = add(home, "python", "1")
    monkeypatch.setattr(setup_command, "ensure_python", lambda store, **_: (image, True))
    monkeypatch.setattr(setup_command, "setup_kernel", lambda folder, **_: "6.1.0-test")
    monkeypatch.setattr(setup_command, "guest_kernel", lambda folder: type("K", (), {"digest": "abc"}))
    result = CliRunner().invoke(app, ["setup"])
    assert result.exit_code == 0
    assert "image python" in result.output
    assert "6.1.0-test" in result.output
