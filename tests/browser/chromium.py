"""A Chromium for the browser tests.

Promises: the path of a browser that answers `--version`, or the reason why there is none.
Refuses: to download a browser past the system's package manager.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
APPLICATIONS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
INSTALL_SECONDS = 240


class Browser(NamedTuple):
    path: Path | None
    reason: str


def find() -> Browser:
    """`MICROTOME_CHROMIUM` if set, else the first known browser that runs."""
    chosen = os.environ.get("MICROTOME_CHROMIUM")
    candidates = [chosen] if chosen else [*map(shutil.which, NAMES), *APPLICATIONS]
    failures = []
    for candidate in candidates:
        if not candidate or not Path(candidate).exists():
            if chosen:
                failures.append(f"MICROTOME_CHROMIUM={chosen} is not there")
            continue
        attempt = subprocess.run([candidate, "--version"], capture_output=True, text=True, timeout=60, check=False)
        if attempt.returncode == 0:
            return Browser(Path(candidate), attempt.stdout.strip())
        failures.append(f"{candidate} does not run: {(attempt.stderr or attempt.stdout).strip()[:200]}")
    return Browser(None, "; ".join(failures) or "no chromium or google-chrome on this machine")


def find_or_install() -> Browser:
    """Find a browser; as root on a system with apt, install `chromium` if there is none."""
    found = find()
    # Whoever names a browser means that one.
    if found.path is not None or os.environ.get("MICROTOME_CHROMIUM"):
        return found
    apt = shutil.which("apt-get")
    if apt is None:
        return Browser(None, f"{found.reason}, and there is no apt-get to install one")
    if os.geteuid() != 0:
        return Browser(None, f"{found.reason}; as root: apt-get install chromium")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in ([apt, "update", "-q"], [apt, "install", "-y", "-q", "--no-install-recommends", "chromium"]):
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return Browser(None, f"{found.reason}; `{' '.join(command[1:])}` took over {INSTALL_SECONDS} s")
        if done.returncode != 0:
            return Browser(None, f"{found.reason}; `{' '.join(command[1:])}` failed: {done.stderr.strip()[-300:]}")
    return find()


if __name__ == "__main__":
    browser = find_or_install()
    print(browser.path or f"none: {browser.reason}")
    raise SystemExit(browser.path is None)
