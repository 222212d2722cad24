"""Zips from elsewhere.

Promises: no member is ever written under a name that it brings along, so none can land outside of the temporary folder;
what is read is bounded, whatever the zip says of its sizes.
Refuses: damaged and encrypted zips, names that try to leave their folder, and zips that would fill the disk.
"""

from __future__ import annotations

import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from microtome.models.refusals import ModelRefused

# The largest official model is a few tens of megabytes.
MAX_BYTES = 2 << 30
MAX_MEMBERS = 10_000
_CHUNK = 1 << 20


@dataclass(frozen=True, eq=False)
class Archive:
    """An open zip with sound names."""

    _zip: zipfile.ZipFile
    _folder: Path
    names: tuple[str, ...]

    def extracted(self, name: str) -> Path:
        """Write one member into the temporary folder, under its last name only. Raises `ModelRefused`."""
        target = self._folder / PurePosixPath(name).name
        left = MAX_BYTES
        try:
            with self._zip.open(name) as member, target.open("wb") as file:
                while chunk := member.read(_CHUNK):
                    left -= len(chunk)
                    if left < 0:
                        raise ModelRefused(f"'{name}' in the zip is larger than {MAX_BYTES >> 30} GiB.")
                    file.write(chunk)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise ModelRefused(f"'{name}' in the zip is damaged or encrypted: {error}") from error
        return target


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Open a zip; what was extracted goes away with it. Raises `ModelRefused`."""
    try:
        with zipfile.ZipFile(path) as file, tempfile.TemporaryDirectory(prefix="microtome-model-") as folder:
            members = file.infolist()
            if len(members) > MAX_MEMBERS:
                raise ModelRefused(f"'{path}' has {len(members)} members; no model has so many.")
            for member in members:
                name = PurePosixPath(member.filename.replace("\\", "/"))
                if name.is_absolute() or ".." in name.parts or ":" in member.filename:
                    raise ModelRefused(f"'{path}' has a member '{member.filename}' that would leave its folder.")
            names = tuple(member.filename for member in members if not member.is_dir())
            yield Archive(file, Path(folder), names)
    except zipfile.BadZipFile as error:
        raise ModelRefused(f"'{path}' is a damaged zip: {error}") from error
