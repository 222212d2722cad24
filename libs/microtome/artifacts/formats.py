"""Which files of cells a job writes.

Promises: a choice is checked before anything is made: known names, each once, in one order, always with Parquet, which
is the canonical result that everything else is made of.
Refuses: unknown names, and to leave Parquet out (`InvalidRequest`). What is not chosen, `microtome export` makes later.
"""

from __future__ import annotations

from typing import Final

from microtome.errors import InvalidRequest

PARQUET: Final = "parquet"
CELL_FORMATS: Final = (PARQUET, "geojson", "csv", "fgb")
# FlatGeobuf is another 0.6 GB for a million cells, for viewers that few have.
DEFAULT_FORMATS: Final = "parquet,geojson,csv"


def formats_named(text: str) -> tuple[str, ...]:
    """Return the formats in a list with commas, in the order of `CELL_FORMATS`. Raises `InvalidRequest`."""
    named = {name.strip().lower() for name in text.split(",")} - {""}
    unknown = sorted(named - set(CELL_FORMATS))
    if unknown:
        raise InvalidRequest(f"There is no format {', '.join(unknown)} of cells; there are {', '.join(CELL_FORMATS)}.")
    if PARQUET not in named:
        raise InvalidRequest(f"The formats of cells are '{text}': parquet, the canonical result, cannot be left out.")
    return tuple(name for name in CELL_FORMATS if name in named)


EVERY_JOBS: Final = formats_named(DEFAULT_FORMATS)
