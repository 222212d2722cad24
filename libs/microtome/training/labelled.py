"""The labelled sets, and who of them may be learned from.

Promises: every image with its labels, its pixel size and the patient or set it comes from; the digest of all that was
read, so that a checkpoint says what it has seen. TNBC's patients are parted once and for all: 07 and 08 are what scores
are reported on, one fold of the others chooses between checkpoints and thresholds, the rest is learned from.
Refuses: to hand out 07 and 08 for learning or choosing, whoever asks.

Sets, each in a folder of its own: `tnbc/{images,labels}/<patient>_<n>.png` (0.25 µm/px; Naylor et al. 2019),
`nuinsseg/{images,labels_watershed}` (0.25 µm/px; Mahbod et al. 2024; touching nuclei were parted by a watershed, so
the borders between them are guesses), `dsb2018/{images,labels}` (Caicedo et al. 2019; pixel size not recorded: judged
by the size of its nuclei).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from microtome.errors import InvalidRequest, NotFound

REPORTED = frozenset({"tnbc07", "tnbc08"})
PATIENTS = tuple(f"tnbc{patient:02d}" for patient in range(1, 7))
# Nuclei of the colour images are as wide as those of the other sets when a pixel is taken for this many micrometres.
DSB_MPP = 0.28


@dataclass(frozen=True, eq=False)
class Labelled:
    """One image: `pixels` uint8 [h, w, 3], `labels` int32 [h, w], pixel size in µm.

    `guessed`: borders between touching objects are guesses.
    """

    name: str
    group: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int32]
    mpp: float
    guessed: bool
    sha256: str


@dataclass(frozen=True, slots=True)
class Fold:
    """Which groups are learned from and which choose; `REPORTED` is in neither."""

    learned: tuple[str, ...]
    choosing: tuple[str, ...]

    def __post_init__(self) -> None:
        for group in (*self.learned, *self.choosing):
            if group in REPORTED or (group.startswith("tnbc") and group not in PATIENTS):
                raise InvalidRequest(f"'{group}' is kept for reporting scores; nothing may be learned or chosen on it.")
        if both := set(self.learned) & set(self.choosing):
            raise InvalidRequest(f"{sorted(both)} cannot both be learned from and choose.")

    @classmethod
    def holding_out(cls, patient: str) -> Fold:
        """Everything but `patient` is learned from. Raises `InvalidRequest` for one that is not in `PATIENTS`."""
        if patient not in PATIENTS:
            raise InvalidRequest(f"'{patient}' cannot be held out; there are {', '.join(PATIENTS)}.")
        return cls((*(name for name in PATIENTS if name != patient), "nuinsseg", "dsb2018"), (patient,))


def read_groups(folder: Path, groups: Iterable[str]) -> tuple[Labelled, ...]:
    """Images of these groups in the order of their names. Raises `NotFound` if a group has none."""
    found: list[Labelled] = []
    for group in groups:
        images = _paths(folder, group)
        if not images:
            raise NotFound(f"There is no labelled image of '{group}' in {folder}.")
        found.extend(_read(image, labels, group) for image, labels in images)
    return tuple(found)


def digest(images: Iterable[Labelled]) -> str:
    """sha256 over names and contents, whatever their order."""
    lines = sorted(f"{image.group}/{image.name} {image.sha256}\n" for image in images)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _paths(folder: Path, group: str) -> list[tuple[Path, Path]]:
    if group.startswith("tnbc"):
        images = sorted((folder / "tnbc" / "images").glob(f"{group[4:]}_*.png"))
        return [(path, folder / "tnbc" / "labels" / path.name) for path in images]
    if group == "nuinsseg":
        images = sorted((folder / group / "images").glob("*.jpg"))
        return [(path, folder / group / "labels_watershed" / f"{path.stem}.png") for path in images]
    if group == "dsb2018":
        images = sorted((folder / group / "images").glob("*.png"))
        return [(path, folder / group / "labels" / path.name) for path in images]
    raise InvalidRequest(f"There is no labelled set '{group}'.")


def _read(image: Path, labels: Path, group: str) -> Labelled:
    raw_image, raw_labels = image.read_bytes(), labels.read_bytes()
    pixels = cv2.imdecode(np.frombuffer(raw_image, np.uint8), cv2.IMREAD_COLOR)
    marked = cv2.imdecode(np.frombuffer(raw_labels, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or marked is None or marked.shape != pixels.shape[:2]:
        raise InvalidRequest(f"{image} and {labels} are not an image and its labels.")
    return Labelled(
        name=image.name,
        group=group,
        pixels=np.ascontiguousarray(pixels[:, :, ::-1]),
        labels=marked.astype(np.int32),
        mpp=DSB_MPP if group == "dsb2018" else 0.25,
        guessed=group == "nuinsseg",
        sha256=hashlib.sha256(raw_image + raw_labels).hexdigest(),
    )
