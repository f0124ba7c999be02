"""`python -m pr_review` from the folder `examples`: the same as `callbox demo`."""

import sys

from callbox.cli.main import app

if __name__ == "__main__":
    app(["demo", *sys.argv[1:]])
