"""The artifact store: one folder for each attempt at a job.

Promises: a folder appears by one rename after everything in it was synced to disk, so a reader
sees all of a job's artifacts or none. Refuses: to change a published folder; publishing the same
attempt again (after a crash between the rename and the event) replaces it whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from microtome.errors import NotFound

MEDIA_TYPES = {
    ".json": "application/json",
    ".geojson": "application/geo+json",
    ".parquet": "application/vnd.apache.parquet",
    ".csv": "text/csv",
    ".fgb": "application/flatgeobuf",
    ".tif": "image/tiff",
    ".zip": "application/zip",
    ".png": "image/png",
    ".jpg": "image/jpeg",
}
_CHUNK = 8 << 20
# Files whose digests are taken, and that are synced, at once: what waits for the disk waits together.
_READERS = 4


@dataclass(frozen=True, slots=True)
class StoredArtifact:
    """One published file: its name, media type, size in bytes and hexadecimal sha256."""

    name: str
    media_type: str
    size_bytes: int
    sha256: str


class Readers:
    """Takes digests of files that are whole, and syncs them, beside what is still written; a context manager."""

    def __init__(self, go_on: Callable[[], None] = lambda: None) -> None:
        """`go_on()` is called every few megabytes, in several threads; what it raises comes instead of the digest."""
        self._go_on = go_on
        self._threads = ThreadPoolExecutor(_READERS, thread_name_prefix="digest")
        self._described: dict[str, Future[StoredArtifact]] = {}

    def __enter__(self) -> Readers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def begin(self, path: Path) -> None:
        """Read a file to which nothing more will be written."""
        self._described[path.name] = self._threads.submit(_describe, path, self._go_on)

    def all_of(self, folder: Path) -> tuple[StoredArtifact, ...]:
        """Return what every file of `folder` is, sorted by name, when all are synced. Raises what reading raised."""
        paths = sorted(folder.iterdir())
        for path in paths:
            if path.name not in self._described:
                self.begin(path)
        return tuple(self._described[path.name].result() for path in paths)


class ArtifactStore:
    """Artifacts below one folder, `<root>/<job_id>/<attempt>/<name>`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def draft(self, job_id: str, attempt: int) -> Iterator[Path]:
        """Give a private folder to write into; it is gone afterwards unless it was published."""
        folder = self._root / job_id / f".draft-{attempt}-{uuid.uuid4().hex}"
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(
        self,
        draft: Path,
        job_id: str,
        attempt: int,
        go_on: Callable[[], None] = lambda: None,
        readers: Readers | None = None,
    ) -> tuple[StoredArtifact, ...]:
        """Make every file of `draft` visible as the artifacts of this attempt, sorted by name.

        `go_on()` is called every few megabytes, from several threads, until shortly before the rename; what it raises
        ends everything. `readers`: have begun with some of the files.
        """
        if readers is None:
            with Readers(go_on) as readers:
                artifacts = readers.all_of(draft)
        else:
            artifacts = readers.all_of(draft)
        _sync(draft)
        go_on()
        target = self._root / job_id / str(attempt)
        if target.exists():
            replaced = target.with_name(f".replaced-{attempt}-{uuid.uuid4().hex}")
            target.rename(replaced)
            shutil.rmtree(replaced, ignore_errors=True)
        draft.rename(target)
        _sync(target.parent)
        return artifacts

    def path(self, job_id: str, attempt: int, name: str) -> Path:
        """Return the file of a published artifact; `NotFound` if there is none."""
        path = self._root / job_id / str(attempt) / name
        if Path(name).name != name or not path.is_file():
            raise NotFound(f"This job has no artifact named {name!r}.")
        return path

    def withdraw(self, job_id: str, attempt: int) -> None:
        """Remove what an attempt published and no event will ever speak of."""
        shutil.rmtree(self._root / job_id / str(attempt), ignore_errors=True)
        with contextlib.suppress(OSError):  # other attempts lie there
            (self._root / job_id).rmdir()

    def sweep(self, job_id: str, attempt: int) -> int:
        """Remove what killed writers of this job left behind: drafts up to this attempt's, and what attempts before it
        published without living to say so; return how much that was.

        Call only for an attempt that has ended, or while holding its lease. One that wakes up long after that was taken
        from it does no harm: what later attempts write is left alone.
        """
        leftovers = [path for path in (self._root / job_id).glob(".*-*") if _attempt_of(path) <= attempt]
        for leftover in leftovers:
            shutil.rmtree(leftover, ignore_errors=True)
        earlier = [each for each in self.attempts(job_id) if each < attempt]
        for each in earlier:
            self.withdraw(job_id, each)
        return len(leftovers) + len(earlier)

    def attempts(self, job_id: str) -> tuple[int, ...]:
        """Return the attempts at this job that have published something."""
        names = (path.name for path in (self._root / job_id).glob("*"))
        return tuple(sorted(int(name) for name in names if name.isdecimal()))

    def jobs(self) -> Iterator[str]:
        """Yield the jobs that have a folder."""
        with os.scandir(self._root) as folders:
            for folder in folders:
                yield folder.name


def _attempt_of(leftover: Path) -> int:
    """Whose draft this is; 0: one from before drafts were called after their attempts."""
    _, _, rest = leftover.name.partition("-")
    attempt, separator, _ = rest.partition("-")
    return int(attempt) if separator and attempt.isdecimal() else 0


def _describe(path: Path, go_on: Callable[[], None]) -> StoredArtifact:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            go_on()
        os.fsync(file.fileno())
    return StoredArtifact(
        name=path.name,
        media_type=MEDIA_TYPES.get(path.suffix, "application/octet-stream"),
        size_bytes=path.stat().st_size,
        sha256=digest.hexdigest(),
    )


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
