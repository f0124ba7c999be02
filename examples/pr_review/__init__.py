"""An agent that reviews pull requests: it runs their tests in a sandbox, measures coverage, and writes a review."""
