"""Runners: where a call executes."""
