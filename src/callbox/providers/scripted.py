"""A model that says what it was told to say: a test double, for our tests and for yours.

>>> import asyncio
>>> from callbox.messages import Message
>>> from callbox.providers.provider import Request
>>> model = Scripted([{"call": "get_order", "arguments": {"order_id": "A-1"}}, "It has been shipped."])
>>> asyncio.run(model.complete(Request(messages=[Message.user("Where is A-1?")]))).calls[0].arguments
{'order_id': 'A-1'}
>>> asyncio.run(model.complete(Request(messages=[]))).message.text
'It has been shipped.'
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias, cast, overload

from callbox.calls.call import ToolCall
from callbox.errors import CallboxError, ConfigurationError
from callbox.messages import (
    CallDelta,
    CallReady,
    CallStarted,
    Finished,
    Message,
    Part,
    Reasoning,
    ReasoningDelta,
    Reply,
    StreamEvent,
    Text,
    TextDelta,
    Usage,
)

if TYPE_CHECKING:
    from callbox.providers.provider import Request

__all__ = ["Scripted", "Turn"]

Piece: TypeAlias = str | Mapping[str, Any] | ToolCall | BaseException | type[BaseException]

StaticTurn: TypeAlias = Piece | Reply | Sequence[Piece]

Turn: TypeAlias = StaticTurn | Callable[[Sequence[Message]], StaticTurn | Awaitable[StaticTurn]]
"""What the model says in one turn.

- a string: a final text
- ``{"call": name, "arguments": {...}}``: one call; a string as arguments is sent as it is, JSON or not;
  ``"id"`` if the id matters, else ``call_1``, ``call_2``, ...
- a list of these: text and calls in one turn, several calls in parallel
- an exception (instance or class): raised; in a list, after what stands before it has been streamed
- a `Reply`: that very reply, for refusals, usage and finish reasons
- a function of the messages so far, sync or async, that returns one of the above
"""

_USAGE = Usage(requests=1, estimated=True)
_CALL_KEYS = frozenset({"call", "arguments", "id"})


class Scripted:
    """A provider that replays turns and records what it was asked.

    Args:
        turns: A list of turns, or one function that is called for every turn (see `Turn`).
        dialect: The dialect that it claims to speak.
        model: The name that it answers to.
        chunk_chars: Characters of text or of arguments in one streamed piece.

    Raises:
        ConfigurationError: A turn is none of the above, or, when asked, there is no turn left.
    """

    def __init__(
        self,
        turns: Iterable[Turn] | Callable[[Sequence[Message]], Any],
        *,
        dialect: str = "openai",
        model: str = "scripted",
        chunk_chars: int = 8,
    ) -> None:
        if chunk_chars < 1:
            raise ConfigurationError(f"chunk_chars={chunk_chars} streams nothing.", hint="Use 1 or more.")
        if isinstance(turns, (str, Mapping)):
            raise ConfigurationError("Scripted takes a list of turns, not one turn.", hint="Write [turn].")
        self._dialect = dialect
        self._model = model
        self._chunk_chars = chunk_chars
        self._ids = 0
        self._asked: list[tuple[Request, int]] = []
        self._function: Callable[[Sequence[Message]], Any] | None = None
        self._turns: list[Any] = []
        if callable(turns):
            self._function = turns
        else:
            self._turns = [turn if _is_function(turn) else self._parse(turn) for turn in turns]

    @property
    def dialect(self) -> str:
        """See `Provider.dialect`."""
        return self._dialect

    @property
    def model(self) -> str:
        """See `Provider.model`."""
        return self._model

    @property
    def requests(self) -> list[Request]:
        """What it was asked, in order, each with the messages as they were at that time.

        A caller may go on appending to the list that it passed: each request shows only what was there then.
        """
        return [
            request
            if isinstance(request.messages, tuple)
            else replace(request, messages=_Prefix(request.messages, length))
            for request, length in self._asked
        ]

    async def complete(self, request: Request) -> Reply:
        """See `Provider.complete`."""
        step = await self._next(request)
        if isinstance(step, Reply):
            return step
        raise step[1]

    async def stream(self, request: Request) -> AsyncIterator[StreamEvent]:
        """See `Provider.stream`. Other tasks run between two pieces, as with a real connection."""
        step = await self._next(request)
        for event in self._events(step.message.content if isinstance(step, Reply) else step[0]):
            yield event
            await asyncio.sleep(0)
        if not isinstance(step, Reply):
            raise step[1]
        yield Finished(step)

    async def aclose(self) -> None:
        """See `Provider.aclose`."""

    async def _next(self, request: Request) -> _Step:
        self._asked.append((request, len(request.messages)))
        turn: Any = self._function
        if turn is None:
            made = len(self._asked)
            if made > len(self._turns):
                raise ConfigurationError(
                    f"The script has {len(self._turns)} turns, and this is request {made}.",
                    hint="Add a turn, or look at .requests for why the model was asked again.",
                )
            turn = self._turns[made - 1]
            if not callable(turn):
                return turn
        said = turn(request.messages)
        if said.__class__ is not str and inspect.isawaitable(said):
            said = await said
        return self._parse(said)

    def _parse(self, turn: Any) -> _Step:
        if turn.__class__ is str:
            return Reply(Message("assistant", (Text(turn),)), "stop", _USAGE, self._model)
        if isinstance(turn, Reply):
            return turn
        pieces = cast("Sequence[Any]", turn) if isinstance(turn, (list, tuple)) else (turn,)
        parts: list[Part] = []
        called = False
        for piece in pieces:
            if isinstance(piece, str):
                parts.append(Text(piece))
            elif isinstance(piece, BaseException) or _is_exception(piece):
                return tuple(parts), _exception(piece)
            else:
                parts.append(self._call(piece))
                called = True
        return Reply(Message("assistant", tuple(parts)), "calls" if called else "stop", _USAGE, self._model)

    def _call(self, piece: Any) -> ToolCall:
        if isinstance(piece, ToolCall):
            return piece
        call = cast("Mapping[str, Any]", piece if isinstance(piece, Mapping) else {})
        if "call" not in call or not _CALL_KEYS.issuperset(call):
            raise ConfigurationError(
                f"{piece!r} is no turn of a script.",
                hint='A turn is a text, {"call": name, "arguments": {...}}, an exception, a Reply or a list.',
            )
        call_id = call.get("id")
        if call_id is None:
            self._ids += 1
            call_id = f"call_{self._ids}"
        return ToolCall(call_id, call["call"], call.get("arguments", {}))

    def _events(self, parts: Iterable[Part]) -> Iterable[StreamEvent]:
        index = 0
        for part in parts:
            if isinstance(part, Text):
                for text in self._chunks(part.text):
                    yield TextDelta(text)
            elif isinstance(part, Reasoning):
                for text in self._chunks(part.text):
                    yield ReasoningDelta(text)
            elif isinstance(part, ToolCall):
                yield CallStarted(index, part.id, part.name)
                for text in self._chunks(_arguments_text(part.arguments)):
                    yield CallDelta(index, text)
                yield CallReady(index, part)
                index += 1

    def _chunks(self, text: str) -> Iterable[str]:
        return (text[at : at + self._chunk_chars] for at in range(0, len(text), self._chunk_chars))


_Step: TypeAlias = Reply | tuple[tuple[Part, ...], BaseException]


class _Prefix(Sequence[Message]):
    """The first `length` items of a list that grows at its end. Not a copy: one request must cost O(1)."""

    __slots__ = ("_items", "_length")

    def __init__(self, items: Sequence[Message], length: int) -> None:
        self._items = items
        self._length = length

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Message]: ...
    def __getitem__(self, index: int | slice) -> Message | Sequence[Message]:
        if isinstance(index, slice):
            return [self._items[at] for at in range(*index.indices(self._length))]
        return self._items[range(self._length)[index]]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(cast("Sequence[Any]", other))

    __hash__ = None  # type: ignore[assignment]  # compares by value and is a view of a mutable list

    def __repr__(self) -> str:
        return repr(list(self))


def _is_exception(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def _is_function(turn: Any) -> bool:
    return callable(turn) and not _is_exception(turn)


def _exception(piece: BaseException | type[BaseException]) -> BaseException:
    if isinstance(piece, BaseException):
        return piece
    return piece("Raised by the script.") if issubclass(piece, CallboxError) else piece()


def _arguments_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
