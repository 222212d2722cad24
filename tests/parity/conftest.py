"""The package that is compared with has an environment of its own (`make parity`), asked after ours."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if os.environ.get("MICROTOME_PARITY"):
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    # Last: what is in both is ours.
    sys.path.append(str(Path(os.environ["MICROTOME_PARITY"]) / "lib" / version / "site-packages"))
