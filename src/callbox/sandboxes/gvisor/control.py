"""Talk to a running sandbox directly, like runsc does, but without the 50 ms that a new runsc process takes.

Releases of runsc up to 2023 listen on an abstract socket named after the container, and take JSON with descriptors
beside it. Later ones do not have that socket, and other arguments: `reachable` is False for them, and the runsc program
does the work.
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from callbox.errors import SandboxError, SandboxLost

_REPLY_BYTES_MAX = 1 << 16
_CONNECT_TIMEOUT_S = 5.0


def reachable(container: str) -> bool:
    """Whether the sandbox can be talked to."""
    try:
        with _connect(container, _CONNECT_TIMEOUT_S):
            return True
    except OSError:
        return False


def checkpoint(container: str, target: Path, *, timeout_s: float) -> None:
    """Write the sandbox's memory to a new file; the sandbox ends then. Blocks.

    Raises:
        SandboxLost: It ended without an answer.
        SandboxError: It refused, or did not answer in time.
    """
    handle = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _call(container, "containerManager.Checkpoint", {}, handle, timeout_s)
    finally:
        os.close(handle)


def restore(container: str, source: Path, *, timeout_s: float) -> None:
    """Let a created sandbox, which has not started, go on from a file. Blocks.

    Raises:
        SandboxLost: It ended without an answer.
        SandboxError: It refused, or did not answer in time.
    """
    handle = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call(container, "containerManager.Restore", {"SandboxID": container}, handle, timeout_s)
    finally:
        os.close(handle)


def _call(container: str, method: str, argument: Mapping[str, Any], handle: int, timeout_s: float) -> None:
    request = json.dumps({"method": method, "arg": argument}).encode()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [handle]))]
    try:
        with _connect(container, timeout_s) as connection:
            connection.sendmsg([request], rights)
            reply = _reply(connection)
    except TimeoutError as error:
        raise SandboxError(f"The sandbox did not answer {method} within {timeout_s:g} s.") from error
    except OSError as error:
        raise SandboxLost(f"The sandbox ended during {method}: {error.strerror}.") from error
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


def _connect(container: str, timeout_s: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(timeout_s)
        connection.connect(f"\0runsc-sandbox.{container}\0")
    except BaseException:
        connection.close()
        raise
    return connection
