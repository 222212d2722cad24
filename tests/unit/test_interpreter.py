"""`make` takes only an interpreter that the locked packages are built for, and says so otherwise."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def interpreter(folder: Path, version: str) -> Path:
    """This Python, saying that it is another version; it makes no virtual environments."""
    path = folder / "python"
    path.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] || exit 7\nexec "{sys.executable}" -c '
        f'"import sys; sys.version_info = ({version}); exec(sys.argv[1])" "$2"\n'
    )
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("version", "taken"), [("3, 10, 9", False), ("3, 11, 0", True), ("3, 14, 2", True), ("3, 15, 0", False)]
)
def test_make_refuses_interpreters_that_cannot_work(tmp_path: Path, version: str, taken: bool) -> None:
    for name in ("Makefile", "requirements-setup.lock", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    chosen = interpreter(tmp_path, version)
    ended = subprocess.run(
        ["make", "setup", f"PYTHON={chosen}"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode != 0
    if taken:
        assert "cannot create a virtual environment" in ended.stderr
    else:
        assert f"Python 3.11 to 3.14 is needed and PYTHON={chosen} is not" in ended.stderr


def test_the_package_says_the_same() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.15"
