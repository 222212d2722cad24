"""The environment of each service of the embedded stack.

Promises: the operator's own settings win over these defaults, a test's overrides over both;
the numerical libraries of five processes do not each start a thread per core.
Refuses: to pass on database or bus addresses of the operator's shell: the stack has its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def service_environment(
    service: str, *, root: Path, addresses: Mapping[str, str], overrides: Mapping[str, str]
) -> dict[str, str]:
    """All variables for one service process."""
    environment = dict(os.environ)
    environment.setdefault("GATEWAY_HOST", "127.0.0.1")
    if service != "inference":  # there INFERENCE_THREADS decides
        for name in THREAD_SETTINGS:
            environment.setdefault(name, "1")
    # glibc's default of 8 arenas per core never gives memory of decoded tiles back.
    environment.setdefault("MALLOC_ARENA_MAX", "2")
    environment["PYTHONUNBUFFERED"] = "1"
    environment["PYTHONPATH"] = os.pathsep.join((str(root / "libs"), str(root)))
    environment.update(addresses)
    environment.update(overrides)
    return environment
