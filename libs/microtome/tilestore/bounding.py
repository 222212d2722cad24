"""Keeping the result store within a size, without taking anything from a job that is not over.

Promises: what a job holds is not evicted before the job is over, whichever process looks; what nobody holds goes in the
order in which it was last used; an eviction is one rename, so nobody ever lists half of what a key had. Tiles that were
evicted are computed again, by whatever job wants them next.
Refuses: to know which jobs are over; it is told.

In a folder beside the results lies, for each job, a file with one line for each thing that it holds, a folder for what
is being evicted, and a lock that makes holding and evicting exclude each other, across processes. A thing is a content
key's folder, a tissue mask or a slide's picture.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_THING = re.compile(r"(?!tissue$)[0-9a-zA-Z_-]+|tissue/[0-9a-zA-Z_-]+\.np[yz]")
_NAMED = re.compile(r"[0-9a-zA-Z_-]+\.np[yz]")
# Jobs, each with when it last took hold of something.
Holders = Mapping[str, int]
_TISSUE = "tissue"


@dataclass(frozen=True, slots=True, order=True)
class Thing:
    """What is evicted as a whole: `used` is when a job last wanted it or a result was added (ns), `size` in bytes."""

    used: int
    name: str
    size: int


class BoundedResults:
    """The folder of a `ResultStore`, seen as things that can be evicted."""

    def __init__(self, root: Path) -> None:
        self._root = root
        beside = root.with_name(f"{root.name}-held")
        self._holds, self._evicted, self._lock = beside / "jobs", beside / "evicted", beside / "lock"
        for folder in (root, self._holds, self._evicted):
            folder.mkdir(parents=True, exist_ok=True)
        # Folders of many files, by when they last changed; adding a file to a folder changes it.
        self._sizes: dict[str, tuple[int, int]] = {}

    def hold(self, job_id: str, *, content_key: str | None = None, tissue_key: str | None = None) -> None:
        """Keep these from being evicted until the job is over. Held things need not exist yet."""
        if not _NAME.fullmatch(job_id):
            raise ValueError(f"not a job's id: {job_id!r}")
        names = [name for name in (content_key, tissue_key and f"{_TISSUE}/{tissue_key}.npz") if name]
        with self._locked(), (self._holds / job_id).open("a", encoding="utf-8") as holds:
            for name in names:
                holds.write(f"{name}\n")
                with contextlib.suppress(FileNotFoundError):
                    os.utime(self._root / name)

    def holders(self) -> dict[str, int]:
        """Return the jobs that hold something, each with when it last took hold (ns)."""
        found = {}
        for path in (self._holds).iterdir():
            with contextlib.suppress(FileNotFoundError):
                found[path.name] = path.stat().st_mtime_ns
        return found

    def let_go(self, over: Holders) -> None:
        """Forget what these jobs held: they are over. A job that took hold again since, in another attempt, is not."""
        with self._locked():
            for job in over.items() & self.holders().items():
                (self._holds / job[0]).unlink(missing_ok=True)

    def things(self) -> list[Thing]:
        """Return everything that there is, from the one that was used longest ago."""
        found = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self._root / _TISSUE) as masks:
            found += [_file(f"{_TISSUE}/{mask.name}", mask) for mask in masks if _NAMED.fullmatch(mask.name)]
        with os.scandir(self._root) as folders:
            for folder in folders:
                if folder.is_dir() and folder.name != _TISSUE and _NAME.fullmatch(folder.name):
                    found.append(self._folder(folder))
        self._sizes = {name: kept for name, kept in self._sizes.items() if name in {thing.name for thing in found}}
        return sorted(thing for thing in found if thing.used)

    def evict(self, name: str, over: Holders) -> bool:
        """Remove one thing, unless a job that is not among those `over` holds it; say whether it is gone."""
        if not _THING.fullmatch(name):
            raise ValueError(f"not a thing in a result store: {name!r}")
        aside = self._evicted / uuid.uuid4().hex
        with self._locked():
            if any(name in self._held_by(job) for job, _ in self.holders().items() - over.items()):
                return False
            try:
                (self._root / name).rename(aside)
            except FileNotFoundError:
                return True
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                # The results are a disk of their own.
                _remove(self._root / name)
        _remove(aside)
        return True

    def clear_evicted(self) -> None:
        """Remove what a process left that was killed while it evicted."""
        for path in (self._evicted).iterdir():
            _remove(path)

    def _held_by(self, job: str) -> frozenset[str]:
        try:
            return frozenset((self._holds / job).read_text("utf-8").split("\n"))
        except FileNotFoundError:
            return frozenset()

    def _folder(self, entry: os.DirEntry[str]) -> Thing:
        try:
            changed = entry.stat().st_mtime_ns
            known = self._sizes.get(entry.name)
            if known is None or known[0] != changed:
                with os.scandir(entry.path) as files:
                    known = changed, sum(_size(file) for file in files)
                self._sizes[entry.name] = known
        except FileNotFoundError:  # evicted meanwhile, by another process
            return Thing(0, entry.name, 0)
        return Thing(changed, entry.name, known[1])

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _file(name: str, entry: os.DirEntry[str]) -> Thing:
    try:
        about = entry.stat()
    except FileNotFoundError:
        return Thing(0, name, 0)
    return Thing(about.st_mtime_ns, name, about.st_size)


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:  # a draft that was renamed
        return 0


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
