"""The gateway: REST, websockets and the web page; the only process that users talk to."""

from __future__ import annotations
