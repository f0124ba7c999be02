"""Talk to a running sandbox directly, like runsc does, but without the 50 ms that a new runsc process takes.

Releases of runsc up to 2023 listen on an abstract socket named after the container, and take JSON with descriptors
beside it. Later ones do not have that socket, and other arguments: `reachable` is False for them, and the runsc program
does the work.

Anybody on the host may listen under such a name. So nothing is said, and no descriptor given, to a listener that is not
a process of the machine.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import socket
import struct
from base64 import b64encode
from collections.abc import Callable, Collection, Generator, Mapping
from pathlib import Path
from typing import Any, cast

from callbox.errors import SandboxError, SandboxLost

_REPLY_BYTES_MAX = 1 << 16
_CONNECT_TIMEOUT_S = 5.0
_CREDENTIALS = struct.Struct("iII")

Members = Callable[[], Collection[int]]
"""Returns the pids of the machine's processes now."""


def reachable(container: str, members: Members) -> bool:
    """Whether the sandbox can be talked to.

    Raises:
        SandboxError: Somebody else listens in its place.
    """
    try:
        with _connect(container, members, _CONNECT_TIMEOUT_S):
            return True
    except OSError:
        return False


def checkpoint(container: str, target: Path, members: Members, *, timeout_s: float) -> None:
    """Write the sandbox's memory to a new file; the sandbox ends then. Blocks.

    Raises:
        SandboxLost: It ended without an answer.
        SandboxError: It refused, or did not answer in time.
    """
    handle = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with _connected(container, members, timeout_s) as connection:
            _call(connection, "containerManager.Checkpoint", {}, handle)
    finally:
        os.close(handle)


_LOOPBACK = {
    "Name": "lo",
    "Addresses": [{"Address": "127.0.0.1", "PrefixLen": 8}, {"Address": "::1", "PrefixLen": 128}],
    "Routes": [
        {"Destination": {"IP": "127.0.0.0", "Mask": b64encode(b"\xff\0\0\0").decode()}, "Gateway": ""},
        {"Destination": {"IP": "::1", "Mask": b64encode(b"\xff" * 16).decode()}, "Gateway": ""},
    ],
}
"""The only link that a sandbox has. `runsc restore` makes it before it restores; without it nothing can listen."""


def restore(container: str, source: Path, members: Members, *, timeout_s: float) -> None:
    """Let a created sandbox, which has not started, go on from a file. Blocks.

    Raises:
        SandboxLost: It ended without an answer.
        SandboxError: It refused, or did not answer in time.
    """
    handle = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with _connected(container, members, timeout_s) as connection:
            _call(connection, "Network.CreateLinksAndRoutes", {"LoopbackLinks": [_LOOPBACK]})
            _call(connection, "containerManager.Restore", {"SandboxID": container}, handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _connected(container: str, members: Members, timeout_s: float) -> Generator[socket.socket, None, None]:
    try:
        with _connect(container, members, timeout_s) as connection:
            yield connection
    except TimeoutError as error:
        raise SandboxError(f"The sandbox did not answer within {timeout_s:g} s.") from error
    except OSError as error:
        raise SandboxLost(f"The sandbox ended instead of answering: {error.strerror}.") from error


def _call(connection: socket.socket, method: str, argument: Mapping[str, Any], *handles: int) -> None:
    request = json.dumps({"method": method, "arg": argument}).encode()
    passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", handles))] if handles else []
    connection.sendmsg([request], passed)
    reply = _reply(connection)
    if reply.get("success") is not True:
        raise SandboxError(f"The sandbox refused {method}: {str(reply.get('err'))[:500]}")


def _reply(connection: socket.socket) -> dict[str, Any]:
    data = b""
    while len(data) < _REPLY_BYTES_MAX:
        more = connection.recv(_REPLY_BYTES_MAX)
        if not more:
            break
        data += more
        try:
            reply: Any = json.loads(data)
        except ValueError:
            continue
        return cast("dict[str, Any]", reply) if isinstance(reply, dict) else {}
    raise SandboxLost("The sandbox ended without an answer.")


def _connect(container: str, members: Members, timeout_s: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(timeout_s)
        connection.connect(f"\0runsc-sandbox.{container}\0")
        said = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(said)
        # Not its user: runsc makes its sandboxes somebody else. The pid is that of whoever began to listen.
        if pid not in members():
            raise SandboxError(
                f"Process {pid} of user {uid} listens in place of the sandbox.",
                hint="Somebody on this host tries to read its memory, or to forge it.",
            )
    except BaseException:
        connection.close()
        raise
    return connection
