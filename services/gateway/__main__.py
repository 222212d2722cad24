"""Starts the gateway: `python -m services.gateway`.

Promises: settings that cannot work, servers that are not there and a port that is taken are said in one line, exit
status 1; SIGTERM lets running requests end.
"""

from __future__ import annotations

import sys


def main() -> int:
    """Run until told to stop; return the exit status."""
    # Imported here: the processes that render pixels load this module too and need none of it.
    from microtome.errors import MicrotomeError
    from services.gateway.server import serve

    try:
        serve()
    except MicrotomeError as error:
        print(f"gateway: {error.detail}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
