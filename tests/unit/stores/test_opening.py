"""From a URL to a store: what is understood, and what is refused with what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from callbox.errors import ConfigurationError
from callbox.stores.memory import MemoryStore
from callbox.stores.opening import open_store
from callbox.stores.sqlite.store import SqliteStore
from callbox.stores.store import SessionKey

SECRET = "hunter2"


@pytest.mark.parametrize("where", [None, "memory", "memory://"])
def test_memory_is_the_default(where: str | None) -> None:
    assert isinstance(open_store(where), MemoryStore)


def test_a_store_is_returned_as_it_is() -> None:
    store = MemoryStore()
    assert open_store(store) is store


async def test_sqlite_urls_are_relative_with_three_slashes_and_absolute_with_four(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for url, path in (
        ("sqlite:///here.db", tmp_path / "here.db"),
        (f"sqlite:///{tmp_path}/there.db", tmp_path / "there.db"),
        (f"sqlite:///{tmp_path}/with%20space.db", tmp_path / "with space.db"),
    ):
        store = open_store(url)
        assert isinstance(store, SqliteStore)
        assert not path.exists()  # before its first use
        await store.create(SessionKey("t", "s"), b"x")
        assert path.exists()
        await store.aclose()


@pytest.mark.parametrize(
    "where",
    [
        "sqlite:",
        "sqlite://",
        "sqlite:///",
        f"sqlite://user:{SECRET}@host/file.db",
        f"sqlite:///file.db?key={SECRET}",
        f"mysql://user:{SECRET}@host/db",
        f"user:{SECRET}@host",
        f"user:{SECRET}://x",
        "",
        "file.db",
    ],
)
def test_what_is_no_store_is_refused_without_repeating_it(where: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        open_store(where)
    assert SECRET not in str(error.value)
    assert error.value.hint is not None
    assert "sqlite:///file.db" in error.value.hint


def test_the_kind_that_is_unknown_is_named() -> None:
    with pytest.raises(ConfigurationError, match="mysql"):
        open_store("mysql://localhost/db")


def test_interval_without_redis_says_what_to_give() -> None:
    with pytest.raises(ConfigurationError, match='cache="redis://'):
        open_store("memory", durability="interval")


def test_options_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="sync"):
        open_store("memory", durability="never")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="Redis") as error:
        open_store("memory", cache=f"memcached://:{SECRET}@host")
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("package", "extra", "where", "cache"),
    [
        ("asyncpg", "postgres", f"postgresql://user:{SECRET}@host/db", None),
        ("redis", "redis", "memory", f"redis://:{SECRET}@host"),
    ],
)
async def test_a_package_that_is_missing_is_named_with_its_command(
    package: str, extra: str, where: str, cache: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(f"callbox.stores.{extra}")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigurationError, match="pip install") as error:
        open_store(where, cache=cache)
    assert f"callbox[{extra}]" in str(error.value)
    assert SECRET not in str(error.value)
