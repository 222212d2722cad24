"""Declaring a command, and reading the values that its options take.

Promises: a command's description and its line in the list of commands are the same sentence; values that nothing could
work with are refused where they are typed.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from pathlib import Path
from typing import Any, TypeAlias

from microtome.errors import InvalidRequest

# In µm. Beyond it a number is no µm per pixel, but a power of ten or the inverse.
SMALLEST_PIXEL, LARGEST_PIXEL = 0.05, 10.0

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - it has no public name


def declare(commands: Commands, name: str, what: str, examples: str = "") -> argparse.ArgumentParser:
    """Add a command: `what` it does, in a sentence without a capital and a full stop, and examples that work."""
    command = commands.add_parser(
        name,
        help=what,
        description=what[0].upper() + what[1:] + ".",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # These stand before the command; behind it they are what people type, too.
    for option in ("--url", "--user"):
        command.add_argument(option, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    command.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON, for programs")
    return command


def pixel_size(text: str) -> float:
    """Read the size of a pixel in µm, within the bounds that a server has."""
    value = float(text)
    if not SMALLEST_PIXEL <= value <= LARGEST_PIXEL:
        raise argparse.ArgumentTypeError(
            f"{text} is no size of a slide's pixel: {SMALLEST_PIXEL} to {LARGEST_PIXEL} µm, such as 0.25"
        )
    return value


def sha256(text: str) -> str:
    """Read a sha256 as `sha256sum` prints it."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no sha256: 64 hexadecimal digits")
    return text.lower()


def region(text: str) -> dict[str, int]:
    """Read x,y,width,height in level-0 pixels."""
    try:
        x, y, width, height = (int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not x,y,width,height in whole pixels") from None
    if min(x, y) < 0 or min(width, height) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rectangle on a slide")
    return {"x": x, "y": y, "width": width, "height": height}


def read_geojson(path: Path) -> dict[str, Any]:
    """Read a file of polygons, as QuPath exports them; what is no place is left out. Raises `InvalidRequest`."""
    try:
        drawn = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{path} cannot be read as GeoJSON: {error}") from None
    if isinstance(drawn, list):
        # QuPath writes features without a collection around them, if it is asked to.
        return _places({"type": "FeatureCollection", "features": drawn})
    if not isinstance(drawn, dict):
        raise InvalidRequest(f"{path} holds no GeoJSON object.")
    return _places(drawn)


def _places(drawn: dict[str, Any]) -> dict[str, Any]:
    """Return the polygons without properties, to a hundredth of a pixel: finer than hands, and shorter."""
    kept = {name: drawn[name] for name in ("type",) if name in drawn}
    if "coordinates" in drawn:
        kept["coordinates"] = _rounded(drawn["coordinates"])
    if "geometry" in drawn:
        inner = drawn["geometry"]
        kept["geometry"] = _places(inner) if isinstance(inner, dict) else inner
    if "features" in drawn:
        features = drawn["features"]
        kept["features"] = (
            [_places(one) if isinstance(one, dict) else one for one in features]
            if isinstance(features, list)
            else features
        )
    return kept


def _rounded(coordinates: object) -> object:
    if isinstance(coordinates, list):
        return [_rounded(one) for one in coordinates]
    return round(coordinates, 2) if isinstance(coordinates, float) and math.isfinite(coordinates) else coordinates
