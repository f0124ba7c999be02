"""``python -m callbox.sandboxes.supervisor --home DIR --images DIR``: started by the first client that needs it."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from callbox.sandboxes.driver import RootImage
from callbox.sandboxes.home import Home
from callbox.sandboxes.images.store import ImageStore
from callbox.sandboxes.supervisor.host_drivers import host_drivers
from callbox.sandboxes.supervisor.points import POINTS, FaultPoints
from callbox.sandboxes.supervisor.process import run_process
from callbox.sandboxes.supervisor.server import Supervisor


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="callbox.sandboxes.supervisor", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="folder of the sandboxes")
    parser.add_argument("--images", type=Path, required=True, help="folder of the images")
    parser.add_argument(
        "--die-at",
        choices=POINTS,
        metavar="POINT",
        default=os.environ.get("CALLBOX_FAULT_POINT") or None,
        help="for tests only: kill this process, as kill -9 does, when it reaches the named point",
    )
    options = parser.parse_args()
    home = Home(options.home.absolute(), options.images.absolute())
    store = ImageStore(home.images)

    def image(name: str) -> RootImage:
        return store.get(name).root_image()

    def make() -> Supervisor:
        return Supervisor(home, host_drivers(home), image, points=FaultPoints(options.die_at))

    return asyncio.run(run_process(home, make))


if __name__ == "__main__":
    sys.exit(main())
