"""The agent that runs inside sandboxes, as a static binary (sources in `guest/`, built by `scripts/build_guest`)."""
