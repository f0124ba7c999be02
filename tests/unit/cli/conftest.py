"""See support_sandboxes."""

from support_sandboxes import bare_home, home

__all__ = ["bare_home", "home"]
