"""How far jobs are, from what is left on disk.

Promises: a tile counts from when its result is whole in the result store, whoever computed it in whatever attempt.
Refuses: to believe what a process says of itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from microtome.contracts.messages import JobPlanned, JobSpec, SlideRegistered, Staining
from microtome.eventlog.log import StoredEvent
from microtome.segmentation.grid import Grid
from microtome.segmentation.model import load_model
from microtome.segmentation.normalisation import Normalisation
from microtome.segmentation.wishes import EngineWish
from services.tiler.planning import SlideSource, results_key

MODEL = load_model("embedded")
# What the services of a campaign run by.
ENGINE: EngineWish = "onnxruntime-cpu-fp32"


def folders(events: Iterable[StoredEvent], jobs: frozenset[str], results: Path) -> dict[str, Path]:
    """Where the tiles of those of the jobs lie that were planned to have tiles."""
    slides: dict[str, SlideRegistered] = {}
    specs: dict[str, JobSpec] = {}
    found: dict[str, Path] = {}
    for event in events:
        message = event.message
        if isinstance(message, SlideRegistered):
            slides[message.slide_id] = message
        elif isinstance(message, JobPlanned) and message.job_id in jobs and message.normalisation is not None:
            spec = specs[message.job_id]
            key = _key(slides[spec.slide_id], spec, message)
            found[message.job_id] = results / key
        else:
            specs |= {spec.job_id: spec for spec in getattr(message, "jobs", ())}
    return found


def _key(slide: SlideRegistered, spec: JobSpec, planned: JobPlanned) -> str:
    parameters, normalisation = spec.parameters, planned.normalisation
    assert parameters is not None
    assert parameters.tile_size is not None
    assert parameters.halo is not None
    assert normalisation is not None
    scale = planned.scale
    grid = Grid(round(slide.width / scale), round(slide.height / scale), parameters.tile_size, parameters.halo)
    source = SlideSource(tenant=slide.user_id, path=Path(slide.path), sha256=slide.sha256, mpp=slide.mpp)
    # Lists, as the tiler's: JSON knows no difference, but the dataclass asks for three of each.
    measured = Normalisation(tuple(normalisation.low), tuple(normalisation.high))  # type: ignore[arg-type]
    staining = parameters.staining or Staining.HE
    # On the ground: nobody draws tissue in a campaign.
    return results_key(source, MODEL, grid, scale, True, measured, staining, ENGINE)


def first_tile(folder: Path, after: float) -> float | None:
    """When the first tile after a time was whole, by the wall clock; None: there is none."""
    times = [path.stat().st_mtime for path in folder.glob("*.arrow")] if folder.is_dir() else []
    return min((time for time in times if time > after), default=None)
