"""A finished job's files in further formats, made when somebody asks for them.

Promises: everything comes from the folder that a job or `microtome segment` left (cells.parquet and summary.json),
nothing is computed anew; a target appears under its name when it is complete.
Refuses: to write over what is there; formats whose libraries are not installed, naming the extra that has them.
"""

from __future__ import annotations

from microtome.artifacts.exports.job import JobFiles
from microtome.artifacts.exports.making import FORMATS, export

__all__ = ["FORMATS", "JobFiles", "export"]
