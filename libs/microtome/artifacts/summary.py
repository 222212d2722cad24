"""summary.json: what a job found, how it worked, and what its user must know."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import orjson


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One job's summary. Sizes of the slide are level-0 pixels; `mpp` is µm per level-0 pixel."""

    job_type: str
    slide_id: str
    slide_sha256: str
    width: int
    height: int
    mpp: float | None
    mpp_source: str
    tissue_mm2: float | None
    tissue_fraction: float
    stage_seconds: dict[str, float]
    notes: tuple[str, ...]
    # Level-0 pixels: x, y, width, height of the part that the job is about; None: the whole slide.
    region: dict[str, int] | None = None
    # How the tissue was found: the size of its mask, µm per mask pixel, the algorithm and its parameters; or that it
    # was drawn.
    tissue: dict[str, Any] | None = None
    # Only of a segmentation:
    cells: int | None = None
    # All cells by the tissue's area, also those beside it.
    cells_per_mm2: float | None = None
    # Of the cells, those whose seed is not on the tissue mask: cells are looked for some way around it, too.
    cells_outside_tissue: int | None = None
    tiles_total: int = 0
    tiles_skipped: int = 0
    tiles_processed: int = 0
    tiles_cached: int = 0
    # The slide's size in model pixels; with tile_size (the largest edge of a tile) and halo, the whole grid.
    grid_width: int | None = None
    grid_height: int | None = None
    tile_size: int | None = None
    halo: int | None = None
    scale: float | None = None
    # What ran the network, of all tiles, joined with ", "; None without tiles.
    engine: str | None = None
    model: str | None = None
    model_digest: str | None = None
    normalisation: dict[str, list[float]] | None = None
    content_key: str | None = None
    # What the measurements split colours into.
    stain: str | None = None
    # Pixels that went through the network for these tiles, whoever computed them, halos included, in millions.
    network_mpix: float | None = None
    # Cells that did not fit the model's window and were grown in a larger one.
    regrown: int | None = None
    # Cells that did not fit the largest window either.
    cut: int | None = None
    # How well tiles join, see `microtome.segmentation.seams`.
    seams: dict[str, Any] | None = None
    # The share of its time that the network stood still while there were tiles to do; None if no tile was computed.
    engine_idle_fraction: float | None = None
    coordinates: str = "level-0 pixels, origin at the upper left corner of the slide, y down"

    def save(self, path: Path) -> None:
        """Write the summary as indented JSON."""
        content: dict[str, Any] = dataclasses.asdict(self)
        options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
        path.write_bytes(orjson.dumps(content, option=options))
