from __future__ import annotations

import asyncio
import signal

import pytest

from callbox import Sandbox, errors
from callbox.sandboxes import process as process_module
from callbox.sandboxes import running
from callbox.sandboxes.output import LINE_BYTES_MAX, Chunk, Clip, LineSplitter
from callbox.sandboxes.process import feed


@pytest.fixture
async def box(home):
    return await Sandbox.create("python", name="box")


async def test_lines_come_from_both_outputs(box):
    process = await box.spawn("echo one; echo two >&2; printf three")
    assert sorted([line async for line in process]) == ["one", "three", "two"]
    assert process.pid > 0
    assert (await process.wait()).exit_code == 0


async def test_input_is_written_until_it_is_closed(box):
    process = await box.spawn("while read x; do echo got $x; done; echo end", stdin=True)
    await process.write("a\n")
    assert await anext(process.stdout.lines()) == "got a"
    await process.write(b"b\n")
    await process.close_stdin()
    assert [line async for line in process] == ["got a", "got b", "end"]
    with pytest.raises(errors.GuestError):
        await process.write("too late")
        await process.close_stdin()


async def test_input_can_be_given_at_once(box):
    process = await box.spawn("wc -c", stdin="x" * 200_000)
    assert [line async for line in process] == ["200000"]


async def test_a_reader_goes_on_where_it_was_and_can_go_back(box):
    process = await box.spawn("echo 12345; read x; echo 67890", stdin=True)
    async for data in process.stdout:
        assert data == b"12345\n"
        break
    assert process.stdout.offset == 6
    await process.write("\n")
    assert b"".join([data async for data in process.stdout]) == b"67890\n"
    assert await process.stdout.read(0) == b"12345\n67890\n"
    assert await process.stdout.read(3, 2) == b"45"
    assert await process.stderr.read(0) == b""
    process.stdout.offset = 9
    assert [line async for line in process.stdout.lines()] == ["90"]


async def test_chunks_say_their_offsets(box):
    process = await box.spawn("printf abc; sleep 0.05; printf def; printf E >&2")
    await process.wait()
    chunks = [chunk async for chunk in process.chunks(stdout_offset=2)]
    out = [chunk for chunk in chunks if chunk.output == "stdout"]
    assert out[0].offset == 2
    assert b"".join(chunk.data for chunk in out) == b"cdef"
    assert [chunk for chunk in chunks if chunk.output == "stderr"] == [Chunk("stderr", b"E", 0)]


async def test_what_the_ring_has_overwritten_is_said(box):
    process = await box.spawn("head -c 40000000 /dev/zero; echo end")
    end = await process.wait()
    chunks = [chunk async for chunk in process.chunks() if chunk.output == "stdout"]
    assert chunks[0].skipped > 0
    assert sum(chunk.skipped + len(chunk.data) for chunk in chunks) == end.stdout_bytes == 40_000_004
    assert chunks[-1].data.endswith(b"end\n")


async def test_a_process_is_waited_for_and_polled(box):
    process = await box.spawn("sleep 300")
    assert await process.poll() is None
    with pytest.raises(TimeoutError):
        await process.wait(0.1)
    await process.signal(signal.SIGTERM)
    end = await process.wait()
    assert (end.signal, end.exit_code) == (15, 143)
    assert (await process.poll()) == end
    await process.kill()


async def test_a_kill_reaches_what_went_its_own_way(box):
    process = await box.spawn("setsid sleep 300 & setsid sh -c 'sleep 301 & wait' & wait")
    async with asyncio.timeout(10):
        while "301" not in (await box.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")).stdout:
            await asyncio.sleep(0.02)
    await process.kill()
    await process.wait()
    assert "sleep 30" not in (await box.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | sed s/sed.*//")).stdout


async def test_the_end_of_a_block_ends_the_process(box):
    async with await box.spawn("sleep 300") as process:
        assert await process.poll() is None
    assert (await process.wait()).signal == 9


async def test_a_terminal_has_a_size_that_changes(box):
    process = await box.spawn("stty size; read x; stty size", pty=(20, 100))
    lines = process.stdout.lines()
    assert await anext(lines) == "20 100"
    await process.resize(30, 120)
    await process.write("\n")
    assert [line async for line in lines][-1] == "30 120"


async def test_an_unknown_process_is_not_found(box):
    with pytest.raises(errors.SandboxNotFound):
        await box.process("never").wait()
    with pytest.raises(errors.SandboxNotFound):
        await box.process("never").stdout.read(0)


def test_lines_are_cut_where_they_end_and_where_they_never_do():
    splitter = LineSplitter()
    assert splitter.feed(b"a\r\nb") == ["a"]
    assert splitter.feed(b"c\n\nd") == ["bc", ""]
    assert splitter.finish() == ["d"]
    assert splitter.finish() == []
    endless = splitter.feed(b"x" * (LINE_BYTES_MAX + 5))
    assert [len(line) for line in endless] == [LINE_BYTES_MAX]
    assert splitter.finish() == ["xxxxx"]


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_a_clip_keeps_head_and_tail_of_whatever_comes_in_pieces(size):
    data = "".join(f"{i} é\n" for i in range(1000)).encode()
    clip = Clip(100)
    for start in range(0, len(data), size):
        clip.add(Chunk("stdout", data[start : start + size], start))
    text, cut = clip.text(len(data), "see there")
    assert cut
    assert text.startswith("0 é\n")
    assert text.endswith("999 é\n")
    assert "see there" in text
    assert "\N{REPLACEMENT CHARACTER}" not in text


def test_a_clip_says_what_was_lost_before_it_came():
    clip = Clip(100)
    clip.add(Chunk("stdout", b"first", 0))
    clip.add(Chunk("stdout", b"last", 1005, skipped=1000))
    text, cut = clip.text(1009, "gone")
    assert cut
    assert text == "first\n[... 1,000 bytes left out; gone ...]\nlast"
    small = Clip(100)
    small.add(Chunk("stdout", b"all", 0))
    assert small.text(3, "") == ("all", False)


async def test_a_write_waits_for_its_turn(box, monkeypatch):
    process = await box.spawn("wc -c", stdin=True)
    guest = box.target.guest(await box.target.client.channel())
    async with await guest.exec_stdin(process.id, close=False) as held:
        await held.send(b"abc")
        async with asyncio.timeout(10):
            while not await somebody_has_the_turn(process):
                await asyncio.sleep(0.01)
        monkeypatch.setattr(process_module, "STDIN_TURN_S", 0.05)
        with pytest.raises(errors.GuestError) as caught:
            await feed(box.target, process.id, b"abcdef")
        assert caught.value.guest_code == "busy"
        monkeypatch.undo()
        feeding = asyncio.create_task(feed(box.target, process.id, b"abcdef"))
        await asyncio.sleep(0)
        await held.cancel()
        await feeding
    assert [line async for line in process] == ["6"]


async def somebody_has_the_turn(process):
    guest = process.target.guest(await process.target.client.channel())
    try:
        async with await guest.exec_stdin(process.id, offset=None, close=False) as stream:
            await stream.end()
            await stream.written()
            return False  # it was ours for a moment
    except errors.GuestError as error:
        return error.guest_code == "busy"


async def test_input_that_cannot_be_sent_fails_the_command_instead_of_cutting_it(box, monkeypatch):
    async def refuse(*_):
        raise errors.GuestError("another stream writes to it", guest_code="busy")

    monkeypatch.setattr(running, "feed", refuse)
    with pytest.raises(errors.GuestError, match="another stream"):
        await box.run("cat; sleep 300", stdin="all of it")
    assert not any(each.running for each in await box.processes())


async def test_a_follower_does_not_undo_a_standby(box):
    process = await box.spawn("echo up; read x; echo got $x", stdin=True)
    following = process.lines()
    assert await anext(following) == "up"
    lines = asyncio.create_task(anext(following))
    await box.standby()
    await asyncio.wait({lines}, timeout=0.3)
    assert (await box.info()).state == "hot"
    await process.write("it\n")
    assert await lines == "got it"
