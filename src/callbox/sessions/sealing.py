"""Bodies of events, sealed with a secret of the session's own: without the secret nothing of them can be read.

Erasing a session is then erasing 32 bytes, also where events were copied to: logs, replicas, backups of the events.
"""

from __future__ import annotations

import hmac
import os
import zlib
from typing import TYPE_CHECKING

from callbox.errors import JournalDamaged
from callbox.stores.store import SessionKey

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SECRET_BYTES = 32
_NONCE_BYTES, _TAG_BYTES = 12, 16
_PLAIN, _DEFLATED = b"-", b"d"
SEAL_BYTES_MAX = 64
"""What sealing adds to a body at most, and a little more."""

_DEFLATE_LEAST_BYTES = 128
_SHORT_BYTES = 4_096
# Window and memory by the length of the body: zlib clears both first, which for a short one takes longer than the work.
# Raw: what a zlib header and checksum would add, AES-GCM knows better.
_SHORT, _LONG = (-12, 5), (-zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL)


def new_secret() -> bytes:
    """For one session."""
    return os.urandom(SECRET_BYTES)


def life_of(key: SessionKey, secret: bytes) -> str:
    """Names what is kept of a session outside its store, like its sandboxes. Nobody learns the secret from it.

    The same from every process and host that opens the store, and over with the secret: a session that is made anew
    under the id, or that has the id in another store, has another life.
    """
    said = f"callbox life of\0{key.tenant}\0{key.session}"
    return hmac.digest(secret, said.encode(), "sha256").hex()


class Sealer:
    """AES-256-GCM. A body belongs to its place: moved to another session, number or kind, it does not open.

    Attributes:
        life: See `life_of`.

    Raises:
        JournalDamaged: The secret is not one of `new_secret`.
    """

    def __init__(self, key: SessionKey, secret: bytes) -> None:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        if len(secret) != SECRET_BYTES:
            raise JournalDamaged("The session's secret is none.", hint="Restore the store from a backup.")
        self._cipher: AESGCM = AESGCM(secret)
        self.life = life_of(key, secret)
        # TypeError: a damaged file's body is a number.
        self._damaged = (InvalidTag, ValueError, TypeError, zlib.error)
        self._place = f"{key.tenant}\0{key.session}\0"

    def seal(self, seq: int, kind: str, plain: bytes) -> bytes:
        """Seal what will be event `seq`."""
        # Random and not `seq`: an append that failed may be tried again with another body under the same number.
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, _packed(plain), f"{self._place}{seq}\0{kind}".encode())

    def unseal(self, seq: int, kind: str, sealed: bytes) -> bytes:
        """Read a body.

        Raises:
            JournalDamaged: It was changed, moved, or sealed with another secret.
        """
        try:
            nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
            return _unpacked(self._cipher.decrypt(nonce, rest, f"{self._place}{seq}\0{kind}".encode()))
        except self._damaged as error:
            raise JournalDamaged(f"Event {seq} ({kind}) was changed, or is of another session.") from error


def sealed_bytes(plain: bytes) -> int:
    """What a body takes when it is sealed."""
    return _NONCE_BYTES + len(_packed(plain)) + _TAG_BYTES


def _packed(plain: bytes) -> bytes:
    """Deflated where that helps: what tools return is text, and a journal keeps it for ever."""
    if len(plain) >= _DEFLATE_LEAST_BYTES:
        window, memory = _SHORT if len(plain) <= _SHORT_BYTES else _LONG
        deflate = zlib.compressobj(zlib.Z_BEST_SPEED, zlib.DEFLATED, window, memory)
        deflated = deflate.compress(plain) + deflate.flush()
        if len(deflated) < len(plain):
            return _DEFLATED + deflated
    return _PLAIN + plain


def _unpacked(packed: bytes) -> bytes:
    how, body = packed[:1], packed[1:]
    if how == _DEFLATED:
        return zlib.decompress(body, -zlib.MAX_WBITS)
    if how != _PLAIN:
        raise ValueError("It is packed in a way that this callbox does not know.")
    return body
