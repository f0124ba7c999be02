"""Durable conversations: a journal, the state that is folded from it, approvals, forks."""
