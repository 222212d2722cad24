"""`python -m microtome`: the command line of `microtome.commandline`."""

from __future__ import annotations

import sys

from microtome.commandline.main import main

if __name__ == "__main__":
    sys.exit(main())
