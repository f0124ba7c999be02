"""Providers by name: ``"openai:gpt-5"`` and its neighbours."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from callbox.errors import ConfigurationError

if TYPE_CHECKING:
    from callbox.providers.provider import Provider

# Loaded when first asked for: nobody needs all of the vendors' SDKs.
_HOMES = {
    "openai": ("callbox.providers.openai", "OpenAIChat"),
    "openai-responses": ("callbox.providers.openai", "OpenAIResponses"),
    "anthropic": ("callbox.providers.anthropic", "Anthropic"),
    "gemini": ("callbox.providers.gemini", "Gemini"),
    "local": ("callbox.providers.local", "Local"),
}

NAMES = tuple(_HOMES)


def provider(spec: str | Provider, **options: Any) -> Provider:
    """The provider that a name stands for.

    Args:
        spec: ``"openai:gpt-5"``, ``"openai-responses:gpt-5"``, ``"anthropic:claude-..."``, ``"gemini:..."``,
            ``"local"`` (a small model of callbox's own), ``"local:/path/to/model.gguf"``, or an object that
            is a provider already.
        options: For the provider's constructor: ``base_url=``, ``api_key=``, ...

    Raises:
        ConfigurationError: The name stands for nothing, or what it needs is not installed.
    """
    if not isinstance(spec, str):
        if not callable(getattr(spec, "complete", None)):
            raise ConfigurationError(f"{spec!r} is no provider: it has no complete().", hint=_USE)
        if options:
            raise ConfigurationError("Options are for providers by name; this one is made already.")
        return spec
    prefix, colon, model = spec.partition(":")
    home = _HOMES.get(prefix)
    if home is None:
        raise ConfigurationError(f"Unknown model {spec!r}.", hint=_USE)
    if not model and (colon or prefix != "local"):
        raise ConfigurationError(f"{spec!r} names no model.", hint=_USE)
    made = getattr(import_module(home[0]), home[1])
    return cast("Provider", made(model, **options) if model else made(**options))


_USE = f"Use one of {', '.join(f'{name}:MODEL' for name in NAMES)}, or a provider object."
