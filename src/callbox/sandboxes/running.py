"""Running a command to its end, and starting one that stays."""

from __future__ import annotations

import asyncio
import codecs
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress

from callbox.errors import ConfigurationError, GuestError, SandboxError, SandboxLost
from callbox.sandboxes.client import Target, new_exec_id
from callbox.sandboxes.output import Attachment, Clip
from callbox.sandboxes.process import Process, encoded, exec_request, feed, kill_quietly
from callbox.sandboxes.results import Exit, Output, RunResult

OUTPUT_BYTES_MAX = 1_048_576
"""Bytes of each output that a result keeps unless told otherwise."""

PORT_TIMEOUT_S = 30.0
"""Seconds that a started process has to open the port that is waited for."""

WORDS_SHOWN = 2_000
"""Bytes of its last output that an error shows of a process that ended before its port was open."""

OnOutput = Callable[[Output, str], Awaitable[None] | None]
"""Is given each piece of output as it comes, as text; may be async."""


async def run_command(
    target: Target,
    command: str | Sequence[str],
    *,
    cwd: str | None,
    env: Mapping[str, str] | None,
    user: str,
    stdin: bytes | str | None,
    timeout_s: float | None,
    output_bytes_max: int,
    on_output: OnOutput | None,
) -> RunResult:
    """See `Sandbox.run`."""
    if output_bytes_max < 0:
        raise ConfigurationError(f"output_bytes_max={output_bytes_max} makes no sense.", hint="Use 0 or more.")
    exec_id = new_exec_id()
    request = exec_request(exec_id, command, cwd=cwd, env=env, user=user, stdin=stdin is not None, timeout_s=timeout_s)
    clips: dict[Output, Clip] = {"stdout": Clip(output_bytes_max), "stderr": Clip(output_bytes_max)}
    listener = _Listener(on_output) if on_output is not None else None
    try:
        if stdin is not None:
            # Before its input, which would not find it otherwise.
            await target.ask("exec.start", lambda guest: guest.exec_start(request), repeat=True)
        attachment = Attachment(target, exec_id, begin=request if stdin is None else None, wakes=True)
        async with _fed(target, exec_id, stdin), aclosing(attachment.chunks()) as chunks:
            async for chunk in chunks:
                clips[chunk.output].add(chunk)
                if listener is not None:
                    await listener.hear(chunk.output, chunk.data)
        if listener is not None:
            await listener.finish()
    except BaseException:
        # Whoever waited for it has gone, or cannot be answered any more: nobody would ever end it.
        await kill_quietly(target, exec_id)
        raise
    if attachment.end is None:
        raise SandboxLost("The output of the command ended, but the command did not.")
    return _result(exec_id, attachment.end, clips)


def _result(exec_id: str, end: Exit, clips: Mapping[Output, Clip]) -> RunResult:
    where = f'the rest: box.process("{exec_id}")'
    stdout, is_stdout_cut = clips["stdout"].text(end.stdout_bytes, f"{where}.stdout.read(offset)")
    stderr, is_stderr_cut = clips["stderr"].text(end.stderr_bytes, f"{where}.stderr.read(offset)")
    return RunResult(
        exit_code=end.exit_code,
        stdout=stdout,
        stderr=stderr,
        duration_ms=end.duration_ms,
        truncated=is_stdout_cut or is_stderr_cut,
        timed_out=end.timed_out,
        signal=end.signal,
        killed_for=end.killed_for,
        process_id=exec_id,
        stdout_bytes=end.stdout_bytes,
        stderr_bytes=end.stderr_bytes,
    )


@asynccontextmanager
async def _fed(target: Target, exec_id: str, stdin: bytes | str | None) -> AsyncGenerator[None]:
    """Send input while the block reads output: a process that gets and gives much would stop both otherwise.

    Raises:
        SandboxError: It could not be sent; the process was ended, which would have read the half for the whole.
    """
    if stdin is None:
        yield
        return

    failures: list[SandboxError] = []

    async def send() -> None:
        try:
            await feed(target, exec_id, encoded(stdin))
        except SandboxError as error:
            failures.append(error)
            await kill_quietly(target, exec_id)

    feeding = asyncio.create_task(send())
    try:
        yield
        if failures:
            raise failures[0]
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)


class _Listener:
    """Gives a caller text: a character that came in two pieces comes in one."""

    def __init__(self, on_output: OnOutput) -> None:
        self._on_output = on_output
        make = codecs.getincrementaldecoder("utf-8")
        self._decoders: dict[Output, codecs.IncrementalDecoder] = {
            "stdout": make("replace"),
            "stderr": make("replace"),
        }

    async def hear(self, output: Output, data: bytes, *, final: bool = False) -> None:
        text = self._decoders[output].decode(data, final)
        if text:
            answer = self._on_output(output, text)
            if inspect.isawaitable(answer):
                await answer

    async def finish(self) -> None:
        for output in self._decoders:
            await self.hear(output, b"", final=True)


async def spawn_command(
    target: Target,
    command: str | Sequence[str],
    *,
    cwd: str | None,
    env: Mapping[str, str] | None,
    user: str,
    stdin: bool | bytes | str,
    timeout_s: float | None,
    pty: tuple[int, int] | None,
    keep_alive: bool,
    wait_port: int | None,
    port_timeout_s: float,
) -> Process:
    """See `Sandbox.spawn`."""
    exec_id = new_exec_id()
    request = exec_request(
        exec_id,
        command,
        cwd=cwd,
        env=env,
        user=user,
        stdin=stdin is not False or pty is not None,
        timeout_s=timeout_s,
        pty=pty,
        keep_alive=keep_alive,
    )
    try:
        pid = await target.ask("exec.start", lambda guest: guest.exec_start(request), repeat=True)
        process = Process(target, exec_id, pid, is_new=True)
        if not isinstance(stdin, bool):
            await process.write(stdin)
            await process.close_stdin()
        if wait_port is not None:
            await _await_port(target, process, wait_port, port_timeout_s)
    except BaseException:
        await kill_quietly(target, exec_id)
        raise
    return process


async def _await_port(target: Target, process: Process, port: int, timeout_s: float) -> None:
    waiting = target.ask("port.wait", lambda guest: guest.port_wait(port, timeout_s=timeout_s), repeat=True)
    opened = asyncio.create_task(waiting)
    ended = asyncio.create_task(process.wait())
    try:
        await asyncio.wait((opened, ended), return_when=asyncio.FIRST_COMPLETED)
        if opened.done():
            await opened
            return
        how = await ended
    except GuestError as error:
        if error.guest_code != "timeout":
            raise
        said = await _last_words(process)
        raise SandboxError(f"Nothing listened on port {port} within {timeout_s:g} s. {said}") from error
    finally:
        for task in (opened, ended):
            task.cancel()
        await asyncio.gather(opened, ended, return_exceptions=True)
    said = await _last_words(process)
    raise SandboxError(f"The process ended with {how.exit_code} before it listened on port {port}. {said}")


async def _last_words(process: Process) -> str:
    clip = Clip(WORDS_SHOWN)
    total = 0
    with suppress(SandboxError):
        attachment = Attachment(process.target, process.id, follow=False)
        async with aclosing(attachment.chunks()) as chunks:
            async for chunk in chunks:
                clip.add(chunk)
                total += len(chunk.data)
    text, _ = clip.text(total, "not shown")
    return f"It said:\n{text.strip()}" if text.strip() else "It said nothing."
