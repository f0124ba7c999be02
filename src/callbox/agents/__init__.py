"""Agents: a model and a gate, taking turns."""
