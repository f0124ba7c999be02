"""Did you mean ...? Only suggested, never done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

# Longer words are no misspellings, and comparing them costs time in proportion to the square of their length.
_WORD_CHARS_MAX = 100
_SIMILAR_MIN = 70.0


def _bare(word: str) -> str:
    """A name without case and separators: ``userId``, ``user-id`` and ``user_id`` are one."""
    return word.replace("_", "").replace("-", "").replace(" ", "").replace(".", "").lower()


def distance(word: str, option: str) -> int | None:
    """How many slips turn one into the other; None if it takes too many.

    A slip is a letter added, left out, changed, or swapped with its neighbour; one in three letters may be
    wrong. Case and separators are no slips.
    """
    if len(word) > _WORD_CHARS_MAX or len(option) > _WORD_CHARS_MAX:
        return None
    bare_word, bare_option = _bare(word), _bare(option)
    if bare_word == bare_option:
        return 0
    from rapidfuzz.distance import OSA

    shorter, longer = sorted((len(bare_word), len(bare_option)))
    allowed = min(max(1, longer // 3), longer - 1)
    found = OSA.distance(bare_word, bare_option, score_cutoff=allowed)
    return found if shorter and found <= allowed else None


def misspelt(word: str, options: Iterable[str]) -> str | None:
    """The option that `word` is a misspelling of, or None. The nearest wins; of equals, the first."""
    best: tuple[int, str] | None = None
    for option in options:
        slips = distance(word, option)
        if slips is not None and (best is None or slips < best[0]):
            best = (slips, option)
    return None if best is None else best[1]


def similar(word: str, options: Sequence[str], count: int = 3) -> list[str]:
    """The few options most like `word`, best first, words in another order included."""
    if len(word) > _WORD_CHARS_MAX:
        return []
    exact = [option for option in options if _bare(option) == _bare(word)]
    if exact:
        return exact[:count]
    from rapidfuzz import fuzz, process, utils

    found = process.extract(
        word.replace("_", " "),
        [option.replace("_", " ") for option in options],
        scorer=fuzz.WRatio,
        processor=utils.default_process,
        limit=count,
        score_cutoff=_SIMILAR_MIN,
    )
    return [options[index] for _, _, index in found]
