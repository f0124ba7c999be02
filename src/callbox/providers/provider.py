"""What a provider is: a client that talks to one model API."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from callbox.messages import Message, Reply, StreamEvent
    from callbox.tools.tool import Tool

ToolChoice: TypeAlias = Literal["auto", "none", "required"] | str
"""``"auto"``, ``"none"``, ``"required"``, or the name of the one tool that must be called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request to a model, in no vendor's terms.

    Attributes:
        messages: The conversation, instructions first as a system message.
        tools: What the model may call.
        tool_choice: See `ToolChoice`.
        parallel: The model may ask for several calls in one turn.
        strict: Ask the vendor to hold the model to the schemas, where it can; None leaves it to the provider.
        output_tokens_max: Tokens the model may write; None takes the provider's default.
        temperature: None takes the vendor's default.
        timeout_s: Seconds for the whole request.
        extra: Parameters in the vendor's own terms, passed on as they are.
    """

    messages: Sequence[Message]
    tools: Sequence[Tool] = ()
    tool_choice: ToolChoice = "auto"
    parallel: bool = True
    strict: bool | None = None
    output_tokens_max: int | None = None
    temperature: float | None = None
    timeout_s: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Provider(Protocol):
    """A client of one model API.

    Raises only `errors.ProviderError` and its kinds (and cancellation), and `errors.ConfigurationError` for
    a missing key or package. Retries of what is retryable happen inside, bounded and with backoff; what it
    raises in the end is final.
    """

    @property
    def dialect(self) -> str:
        """The dialect it speaks: the key of `callbox.dialects`."""
        ...

    @property
    def model(self) -> str:
        """The model's name in the vendor's terms."""
        ...

    async def complete(self, request: Request) -> Reply:
        """Ask and wait for the whole answer."""
        ...

    def stream(self, request: Request) -> AsyncIterator[StreamEvent]:
        """Ask and read the answer as it is written; the last event is `Finished`."""
        ...

    async def aclose(self) -> None:
        """Close connections. Idempotent."""
        ...
