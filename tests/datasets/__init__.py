"""Tests that use other people's data."""
