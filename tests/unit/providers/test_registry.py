from __future__ import annotations

from typing import Any

import pytest

from callbox.errors import ConfigurationError
from callbox.providers.registry import NAMES, provider
from callbox.providers.scripted import Scripted


@pytest.mark.parametrize(
    ("spec", "dialect", "model"),
    [
        ("openai:gpt-5", "openai", "gpt-5"),
        ("openai-responses:gpt-5", "openai-responses", "gpt-5"),
        ("anthropic:claude-sonnet-4-5", "anthropic", "claude-sonnet-4-5"),
        ("gemini:gemini-2.5-flash", "gemini", "gemini-2.5-flash"),
        # Ollama's names have colons of their own.
        ("openai:qwen3:0.6b", "openai", "qwen3:0.6b"),
    ],
)
def test_a_name_is_a_provider_and_a_model(spec: str, dialect: str, model: str) -> None:
    found = provider(spec, api_key="k")
    assert (found.dialect, found.model) == (dialect, model)


def test_a_provider_is_taken_as_it_is() -> None:
    made = Scripted(["hi"])
    assert provider(made) is made


@pytest.mark.parametrize("spec", ["gpt-5", "mistral:large", "", "scripted"])
def test_an_unknown_name_lists_the_known_ones(spec: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        provider(spec)
    assert all(f"{name}:MODEL" in str(raised.value) for name in NAMES)


@pytest.mark.parametrize("spec", ["openai", "openai:", "local:"])
def test_a_name_without_its_model_is_refused(spec: str) -> None:
    with pytest.raises(ConfigurationError, match="names no model"):
        provider(spec)


def test_what_is_no_provider_is_refused() -> None:
    wrong: Any = object()
    with pytest.raises(ConfigurationError, match="is no provider"):
        provider(wrong)
    with pytest.raises(ConfigurationError, match="made already"):
        provider(Scripted([]), base_url="http://localhost")
