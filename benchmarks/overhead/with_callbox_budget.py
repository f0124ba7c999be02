"""callbox with a token budget: every message is counted in the turn in which it comes."""

import with_callbox
from workload import main

from callbox.agents.conversation import Context

CONTEXT = Context(budget_tokens=1_000_000)


async def run(turns: int, parallel: int) -> int:
    return await with_callbox.run(turns, parallel, CONTEXT)


if __name__ == "__main__":
    main(run)
