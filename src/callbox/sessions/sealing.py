"""Bodies of events, sealed with a secret of the session's own: without the secret nothing of them can be read.

Erasing a session is then erasing 32 bytes, also where events were copied to: logs, replicas, backups of the events.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from callbox.errors import JournalDamaged
from callbox.stores.store import SessionKey

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SECRET_BYTES = 32
_NONCE_BYTES = 12


def new_secret() -> bytes:
    """For one session."""
    return os.urandom(SECRET_BYTES)


class Sealer:
    """AES-256-GCM. A body belongs to its place: moved to another session, number or kind, it does not open."""

    def __init__(self, key: SessionKey, secret: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher: AESGCM = AESGCM(secret)
        self._place = f"{key.tenant}\0{key.session}\0"

    def seal(self, seq: int, kind: str, plain: bytes) -> bytes:
        """Seal what will be event `seq`."""
        # Random and not `seq`: an append that failed may be tried again with another body under the same number.
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, f"{self._place}{seq}\0{kind}".encode())

    def unseal(self, seq: int, kind: str, sealed: bytes) -> bytes:
        """Read a body.

        Raises:
            JournalDamaged: It was changed, moved, or sealed with another secret.
        """
        from cryptography.exceptions import InvalidTag

        try:
            nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
            return self._cipher.decrypt(nonce, rest, f"{self._place}{seq}\0{kind}".encode())
        except (InvalidTag, ValueError) as error:
            raise JournalDamaged(f"Event {seq} ({kind}) was changed, or is of another session.") from error
