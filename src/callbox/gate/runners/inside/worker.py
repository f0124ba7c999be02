"""The worker of one sandbox: keeps the tools of one session loaded and runs their calls. Read as text, never imported.

It is started as ``python3 -u -c`` (standard library only, Python 3.9 or later) and listens on a port of the loopback.
The first line of its output says where: ``{"protocol", "port", "worker"}``. Every connection is one request. A frame is
four bytes of length (big-endian) and a JSON object.

    host                                        worker
    {"do": "call", "worker", "id", "digest",
     "again", "forget", "arguments", ...}     ->
                                          <-    {"need": true}                      source of that digest is not loaded
    {"module", "function", "pieces"}      ->
                                          <-    {"progress": [0.5, null, "..."]}    any number
                                          <-    {"done": {...}} | {"unknown": true} | {"stranger": true}
    {"do": "stop", "worker", "id"}        ->
                                          <-    {"stopped": true | false}

A call is known by its id: asked for again, it is not run again. Its result is kept until the ``forget`` of a later call
names it.
"""

import sys

if sys.path and sys.path[0] == "":  # before anything else is imported: a file json.py that a tool wrote would be ours
    del sys.path[0]

import __future__

import asyncio
import contextvars
import ctypes
import dataclasses
import io
import json
import linecache
import os
import socket
import struct
import threading
import time
import traceback
import types
from collections import OrderedDict

PROTOCOL = 1
FRAME_BYTES_MAX = 16_000_000
RESULT_BYTES_MAX = 5_000_000
CALLS_MAX = 16
KEPT_MAX = 256
KEPT_BYTES_MAX = 32_000_000
STOP_GRACE_S = 1.0
PRINTED_CHARS_MAX = 4_000
DETAILS_CHARS_MAX = 8_000


class ToolError(Exception):
    """Answers the model."""

    def __init__(self, message, *, retryable=False, suggestion=None):
        super().__init__(message)
        self.message = message
        self.retryable = retryable
        self.suggestion = suggestion


class Rejected(ToolError):
    """These arguments make no sense here."""

    def __init__(self, message, *, path=None, suggestion=None):
        super().__init__(message, suggestion=suggestion)
        self.path = path


class Stopped(BaseException):
    """Raised in the thread of a call that nobody waits for any more."""


class CallContext:
    """What a tool may know about its call."""

    state = None

    def __init__(self, given, job):
        for name in ("call_id", "tool", "idempotency_key", "attempt", "run_id", "session_id", "user_id", "tenant_id"):
            setattr(self, name, given.get(name))
        self.scopes = frozenset(given.get("scopes") or ())
        self._job = job
        remaining_s = given.get("remaining_s")
        self._deadline = None if remaining_s is None else time.monotonic() + remaining_s

    def remaining_s(self):
        """Seconds until the deadline, in the time that the sandbox was awake."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def is_cancelled(self):
        """Nobody waits any more."""
        return self._job.stopping

    def report(self, progress, total=None, message=None):
        """Tell how far it is."""
        self._job.tell({"progress": [progress, total, message]})


def stand_in():
    """The little of `callbox` that tools import."""

    def tool(function=None, **_):
        return (lambda target: target) if function is None else function

    package, errors, tools, context = (
        types.ModuleType(name) for name in ("callbox", "callbox.errors", "callbox.tools", "callbox.tools.call_context")
    )
    package.__path__ = tools.__path__ = []
    errors.ToolError, errors.Rejected = package.ToolError, package.Rejected = ToolError, Rejected
    package.CallContext = context.CallContext = CallContext
    package.tool, package.errors, package.tools, tools.call_context = tool, errors, tools, context
    for module in (package, errors, tools, context):
        sys.modules[module.__name__] = module


CURRENT = contextvars.ContextVar("call")


class Printed(io.TextIOBase):
    """What tools print: to the worker's own output, and the last of it beside the call that printed it."""

    def __init__(self, to):
        self._to = to

    def writable(self):
        return True

    def write(self, text):
        job = CURRENT.get(None)
        if job is not None:
            job.printed = (job.printed + text)[-PRINTED_CHARS_MAX:]
        try:
            self._to.write(text)
        except OSError:  # the disk that keeps it is full
            pass
        return len(text)

    def flush(self):
        try:
            self._to.flush()
        except OSError:
            pass

    def fileno(self):
        return self._to.fileno()


class Connection:
    """Frames of one connection."""

    def __init__(self, sock):
        self._sock = sock
        self._writing = threading.Lock()
        self._file = sock.makefile("rb")

    def read(self):
        head = self._file.read(4)
        if len(head) < 4:
            return None
        (size,) = struct.unpack(">I", head)
        if size > FRAME_BYTES_MAX:
            return None
        body = self._file.read(size)
        return json.loads(body) if len(body) == size else None

    def write(self, frame):
        body = json.dumps(frame, separators=(",", ":")).encode()
        with self._writing:
            self._sock.sendall(struct.pack(">I", len(body)) + body)

    def close(self):
        for each in (self._file, self._sock):
            try:
                each.close()
            except OSError:
                pass


class Job:
    """One call, from its first request to the end of its result's life."""

    def __init__(self, key, function, request):
        self.key = key
        self.function = function
        self.request = request
        self.printed = ""
        self.outcome = None
        self.size = 0
        self.stopping = False
        self.connection = None
        self.done = threading.Event()
        self._ending = threading.Lock()
        self._thread = None
        self._task = None

    def tell(self, frame):
        connection = self.connection
        if connection is not None and not self.done.is_set():
            try:
                connection.write(frame)
            except OSError:  # whoever asks again for the call hears the rest
                self.connection = None

    def start(self):
        threading.Thread(target=self._live, daemon=True).start()

    def _live(self):
        while not self.done.is_set():
            try:
                if self.outcome is None:
                    self._compute()
                with self._ending:
                    self.done.set()
            except Stopped:
                self.outcome = self.outcome or {"stopped": True}

    def _compute(self):
        with ROOM:
            with self._ending:
                if self.stopping:
                    raise Stopped
                self._thread = threading.get_ident()
            CURRENT.set(self)
            self.outcome = self._run()
        if len(self.outcome.get("result", "")) > RESULT_BYTES_MAX:
            self.outcome = {
                "error": "ToolError",
                "message": f"The result has more than {RESULT_BYTES_MAX:,} bytes.",
                "suggestion": "Ask for less, or let the tool write a file.",
            }

    def _run(self):
        arguments = dict(self.request["arguments"])
        place = self.request.get("context_parameter")
        if place is not None:
            arguments[place] = CallContext(self.request["context"], self)
        try:
            value = self.function(**arguments)
            if hasattr(value, "__await__"):
                value = self._await(value)
            return {"result": json.dumps(value, default=as_json)}
        except (Stopped, asyncio.CancelledError) as error:
            if self.stopping:
                return {"stopped": True}
            return failure(error, self.printed)
        except ToolError as error:
            told = {"error": type(error).__name__ if type(error) is Rejected else "ToolError"}
            for name in ("message", "suggestion", "path"):
                value = getattr(error, name, None)
                told[name] = None if value is None else str(value)
            return {**told, "retryable": bool(error.retryable)}
        except BaseException as error:  # also SystemExit: it is the tool that wants to end, not we
            return failure(error, self.printed)

    def _await(self, awaitable):
        async def waited():
            CURRENT.set(self)
            return await awaitable

        self._task = asyncio.run_coroutine_threadsafe(waited(), LOOP.get())
        while True:
            try:
                return self._task.result(0.5)  # an exception that `stop` raises here is seen between two waits
            except TimeoutError:
                if self._task.done():
                    raise
            except asyncio.TimeoutError:  # another class before Python 3.11
                if self._task.done():
                    raise

    def stop(self):
        """End it; False if it does not let itself be ended."""
        with self._ending:
            first, self.stopping = not self.stopping, True
            if self._thread is None:  # it waits for room, and will not begin
                self.outcome = {"stopped": True}
                self.done.set()
            elif first and not self.done.is_set():
                if self._task is not None:
                    self._task.cancel()
                elif self._thread is not None:
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(Stopped))
        return self.done.wait(STOP_GRACE_S)


def failure(error, printed):
    """An exception that nobody meant for the model."""
    try:
        text = str(error)
    except Exception:
        text = ""
    details = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    if printed:
        details += f"\nIt printed:\n{printed}"
    return {"failed": type(error).__name__, "text": text[:DETAILS_CHARS_MAX], "details": details[-DETAILS_CHARS_MAX:]}


def as_json(value):
    """Values that JSON does not know."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, (set, frozenset)):
        return list(value)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "replace")
    if hasattr(type(value), "__members__"):
        return value.value
    return str(value)


class Loop:
    """The one event loop of async tools: what they share (locks, clients) belongs to it."""

    def __init__(self):
        self._lock = threading.Lock()
        self._loop = None

    def get(self):
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, daemon=True).start()
            return self._loop


class Library:
    """Loaded tools. All tools of one module share its names, and a name is only set again when its source changed."""

    def __init__(self):
        self._lock = threading.Lock()
        self._texts = {}
        self._functions = {}

    def find(self, digest):
        return self._functions.get(digest)

    def load(self, digest, shipped):
        with self._lock:
            name = "tools:" + shipped["module"]
            module = sys.modules.get(name)
            if module is None:
                module = sys.modules[name] = types.ModuleType(name)
            texts = self._texts.setdefault(name, {})
            for place, (key, text) in enumerate(shipped["pieces"]):
                if texts.get(key) != text:
                    shown = f"<{name}.{key} {digest[:8]} {place}>"
                    flags = __future__.annotations.compiler_flag
                    exec(compile(text, shown, "exec", flags=flags, dont_inherit=True), module.__dict__)
                    linecache.cache[shown] = (len(text), None, text.splitlines(True), shown)
                    texts[key] = text
            self._functions[digest] = module.__dict__[shipped["function"]]
            return self._functions[digest]


class Jobs:
    """Calls by id."""

    def __init__(self):
        self._lock = threading.Lock()
        self._jobs = OrderedDict()
        self._has_forgotten = False

    def get(self, key):
        with self._lock:
            return self._jobs.get(key)

    def begin(self, key, function, request, connection):
        """The call of that id, begun now unless it was before; None if it may be one whose result was dropped."""
        with self._lock:
            job = self._jobs.get(key)
            if job is not None:
                job.connection = connection
                return job
            if request.get("again") and self._has_forgotten:
                return None
            job = self._jobs[key] = Job(key, function, request)
            job.connection = connection  # before it starts: what it reports first must be heard
            self._trim()
        job.start()
        return job

    def forget(self, key):
        with self._lock:
            self._jobs.pop(key, None)

    def _trim(self):
        done = [each for each in self._jobs.values() if each.done.is_set()]
        size = sum(len(each.outcome.get("result", "")) for each in done)
        while done and (len(done) > KEPT_MAX or size > KEPT_BYTES_MAX):
            oldest = done.pop(0)
            size -= len(oldest.outcome.get("result", ""))
            del self._jobs[oldest.key]
            self._has_forgotten = True


def serve(sock):
    """One connection."""
    connection = Connection(sock)
    try:
        request = connection.read()
        if request is None:
            return
        if request.get("worker") != WORKER:
            connection.write({"stranger": True})
        elif request["do"] == "stop":
            job = JOBS.get(request["id"])
            stopped = job is None or job.stop()
            if stopped:
                JOBS.forget(request["id"])
            connection.write({"stopped": stopped})
        else:
            answer(connection, request)
    except OSError:
        return
    finally:
        connection.close()


def answer(connection, request):
    """One call."""
    for key in request.get("forget") or ():
        JOBS.forget(key)
    function = LIBRARY.find(request["digest"])
    if function is None:
        connection.write({"need": True})
        shipped = connection.read()
        if shipped is None:
            return
        try:
            function = LIBRARY.load(request["digest"], shipped)
        except BaseException as error:
            connection.write({"done": {**failure(error, ""), "unloadable": True}})
            return
    job = JOBS.begin(request["id"], function, request, connection)
    if job is None:
        connection.write({"unknown": True})
        return
    job.done.wait()
    connection.write({"done": job.outcome})


def main():
    """Listen until somebody ends us."""
    stand_in()
    sys.path.append("/work")
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    said = json.dumps({"protocol": PROTOCOL, "port": listener.getsockname()[1], "worker": WORKER})
    os.write(1, said.encode() + b"\n")
    os.dup2(2, 1)  # what commands that tools start print; the line above must stay the first and only one
    sys.stdout = Printed(sys.stderr)
    sys.stderr = Printed(sys.stderr)
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(sock,), daemon=True).start()


WORKER = os.urandom(16).hex()
ROOM = threading.BoundedSemaphore(CALLS_MAX)
LOOP, LIBRARY, JOBS = Loop(), Library(), Jobs()

if __name__ == "__main__":
    main()
