"""Runs inside a sandbox: hold a secret in memory, nowhere else, and say it for every line on standard input."""

import os
import secrets
import sys

SECRET = secrets.token_hex(32)
for count, _ in enumerate(sys.stdin, start=1):
    print(os.getpid(), SECRET, count, flush=True)
