"""Passwords of the embedded servers.

Promises: made once, kept in a file only its owner can read, so that other users of the
workstation can connect to neither Postgres nor NATS.
Refuses: to hold anything a person has to remember.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def password(path: Path) -> str:
    """Read the password in `path`, or make one there (mode 0600). It begins with a letter and is URL-safe."""
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write("m" + secrets.token_hex(16))
    return path.read_text().strip()
