"""callbox: the open, self-hosted runtime for LLM function calling."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from callbox.tools.toolset import install_definitions

if TYPE_CHECKING:
    from callbox import errors as errors
    from callbox.agents.agent import Agent as Agent
    from callbox.agents.session import Session as Session
    from callbox.calls.call import ToolCall as ToolCall
    from callbox.calls.call import ToolResult as ToolResult
    from callbox.errors import ToolError as ToolError
    from callbox.gate.gate import Gate as Gate
    from callbox.policy.policy import Allow as Allow
    from callbox.policy.policy import Ask as Ask
    from callbox.policy.policy import Deny as Deny
    from callbox.policy.policy import Policy as Policy
    from callbox.sandboxes.sandbox import Sandbox as Sandbox
    from callbox.tools.call_context import CallContext as CallContext
    from callbox.tools.signature import tool as tool
    from callbox.tools.tool import Tool as Tool
    from callbox.tools.toolset import Toolset as Toolset

# Loaded when first used, so that `import callbox` stays light.
_HOMES = {
    "Agent": "callbox.agents.agent",
    "Allow": "callbox.policy.policy",
    "Ask": "callbox.policy.policy",
    "CallContext": "callbox.tools.call_context",
    "Deny": "callbox.policy.policy",
    "Gate": "callbox.gate.gate",
    "Policy": "callbox.policy.policy",
    "Sandbox": "callbox.sandboxes.sandbox",
    "Session": "callbox.agents.session",
    "Tool": "callbox.tools.tool",
    "ToolCall": "callbox.calls.call",
    "ToolError": "callbox.errors",
    "ToolResult": "callbox.calls.call",
    "Toolset": "callbox.tools.toolset",
    "tool": "callbox.tools.signature",
}

__all__ = [
    "Agent",
    "Allow",
    "Ask",
    "CallContext",
    "Deny",
    "Gate",
    "Policy",
    "Sandbox",
    "Session",
    "Tool",
    "ToolCall",
    "ToolError",
    "ToolResult",
    "Toolset",
    "errors",
    "tool",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is not None:
        value = getattr(import_module(home), name)
    elif name == "errors":
        value = import_module("callbox.errors")
    else:
        raise AttributeError(f"module 'callbox' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


def _define(dialect_name: str, tools: Any, strict: bool) -> Any:
    from callbox.dialects import find_dialect

    return find_dialect(dialect_name).define(tools, strict=strict)


install_definitions(_define)
