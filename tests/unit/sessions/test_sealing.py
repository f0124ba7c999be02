"""Bodies open only with their secret, in their place; and take less room than they would."""

from __future__ import annotations

import random

import pytest

from callbox.errors import JournalDamaged
from callbox.sessions.sealing import SECRET_BYTES, Sealer, new_secret
from callbox.stores.store import SessionKey

KEY = SessionKey("acme", "one")
TEXT = b"The parcel was handed over to the neighbour. "


@pytest.mark.parametrize("length", [0, 1, 127, 128, 4_095, 4_096, 4_097, 40_000, 1 << 20])
@pytest.mark.parametrize("kind", ["words", "noise"])
def test_what_is_sealed_opens(length: int, kind: str) -> None:
    sealer = Sealer(KEY, new_secret())
    plain = (TEXT * (length // len(TEXT) + 1) if kind == "words" else random.Random(length).randbytes(length))[:length]
    sealed = sealer.seal(7, "answered", plain)
    assert sealer.unseal(7, "answered", sealed) == plain
    overhead = 12 + 16 + 1  # nonce, tag, how it is packed
    assert len(sealed) <= length + overhead
    if kind == "words" and length >= 128:
        assert len(sealed) < length


def test_a_body_belongs_to_its_place() -> None:
    secret = new_secret()
    sealed = Sealer(KEY, secret).seal(7, "answered", TEXT)
    for sealer, seq, kind in (
        (Sealer(KEY, secret), 8, "answered"),
        (Sealer(KEY, secret), 7, "asked"),
        (Sealer(SessionKey("acme", "two"), secret), 7, "answered"),
        (Sealer(SessionKey("other", "one"), secret), 7, "answered"),
        (Sealer(KEY, new_secret()), 7, "answered"),
    ):
        with pytest.raises(JournalDamaged):
            sealer.unseal(seq, kind, sealed)


@pytest.mark.parametrize("secret", [b"", b"x", bytes(SECRET_BYTES - 1), bytes(SECRET_BYTES + 1), bytes(16)])
def test_a_damaged_secret_is_told(secret: bytes) -> None:
    with pytest.raises(JournalDamaged):
        Sealer(KEY, secret)
