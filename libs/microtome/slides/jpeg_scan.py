"""Whether a JPEG's compressed data is whole.

Promises: True only where every block of a baseline JPEG is there and the data ends right behind the last of them; what
was cut off, and most of what was changed, shows in that. Fast decoders give grey pixels for the rest and say nothing.
Refuses, by answering False, all kinds but the one: one interleaved scan of three colours, without restarts.
"""

from __future__ import annotations

from functools import lru_cache

import numba
import numpy as np
import numpy.typing as npt

_START_OF_FRAME, _TABLES, _START_OF_SCAN, _END = 0xC0, 0xC4, 0xDA, 0xD9
# Quantisation, application data, comments: nothing that changes where the compressed data goes.
_SKIPPED = frozenset({0xDB, 0xFE, *range(0xE0, 0xF0)})
_COLOURS = 3

Codes = npt.NDArray[np.uint16]


def is_whole(data: bytes, tables: bytes | None = None) -> bool:
    """Whether the picture in `data`, whose Huffman tables may be in the abbreviated stream `tables`, is complete."""
    codes: dict[int, Codes] = {}
    if tables is not None:
        _header(tables, codes)
    frame, order, at = _header(data, codes)
    if frame is None or order is None:
        return False
    width, height, sampling = frame
    if [each for each, _ in order] != list(sampling):
        return False
    needed = [key for _, chosen in order for key in (chosen >> 4, 0x10 | (chosen & 15))]
    if any(key not in codes for key in needed):
        return False
    wide, high = max(s >> 4 for s in sampling.values()), max(s & 15 for s in sampling.values())
    if min(wide, high) < 1:
        return False
    units = -(-width // (8 * wide)) * -(-height // (8 * high))
    blocks = np.array([(s >> 4) * (s & 15) for s in sampling.values()], np.int64)
    return bool(_ends(np.frombuffer(data, np.uint8), at, units, blocks, *(codes[key] for key in needed)))


def warm_up() -> None:
    """Compile, or load what was compiled before, so that the first tile does not wait for it."""
    codes = np.zeros(1 << 16, np.uint16)
    _ends(np.frombuffer(b"\xff\xd9", np.uint8), 0, 0, np.zeros(3, np.int64), codes, codes, codes, codes, codes, codes)


_Frame = tuple[int, int, dict[int, int]]
_Order = list[tuple[int, int]]


def _header(data: bytes, codes: dict[int, Codes]) -> tuple[_Frame | None, _Order | None, int]:
    """Read up to the scan: width, height and sampling by colour; the colours' tables; where the scan's data begins.

    Huffman tables go into `codes`, by class and number. Both are None for kinds that are refused.
    """
    nothing = None, None, 0
    frame: _Frame | None = None
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        kind, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        part, at = data[at + 4 : at + 2 + length], at + 2 + length
        if kind == _TABLES:
            while len(part) > 17:
                size = 17 + sum(part[1:17])
                codes[part[0]], part = _codes(part[1:size]), part[size:]
        elif kind == _START_OF_FRAME:
            if len(part) != 6 + 3 * _COLOURS or part[0] != 8 or part[5] != _COLOURS:
                return nothing
            sampling = {part[6 + 3 * i]: part[7 + 3 * i] for i in range(_COLOURS)}
            frame = int.from_bytes(part[3:5], "big"), int.from_bytes(part[1:3], "big"), sampling
        elif kind == _START_OF_SCAN:
            if len(part) != 4 + 2 * _COLOURS or part[0] != _COLOURS or part[-3:] != b"\x00\x3f\x00":
                return nothing
            return frame, [(part[1 + 2 * i], part[2 + 2 * i]) for i in range(_COLOURS)], at
        elif kind not in _SKIPPED:
            return nothing
    return nothing


@lru_cache(maxsize=64)
def _codes(table: bytes) -> Codes:
    """For all 16 bits that may come the length of the code that they begin with, times 256, and its symbol; 0: none."""
    codes = np.zeros(1 << 16, np.uint16)
    begin, symbol = 0, 16
    for length in range(1, 17):
        for _ in range(table[length - 1]):
            end = begin + (1 << (16 - length))
            if end > 1 << 16:
                return np.zeros(1 << 16, np.uint16)
            codes[begin:end] = length << 8 | table[symbol]
            begin, symbol = end, symbol + 1
    return codes


@numba.njit(cache=True, nogil=True)
def _ends(
    data: npt.NDArray[np.uint8],
    at: int,
    units: int,
    blocks: npt.NDArray[np.int64],
    dc0: Codes,
    ac0: Codes,
    dc1: Codes,
    ac1: Codes,
    dc2: Codes,
    ac2: Codes,
) -> bool:
    """Whether `units` groups of `blocks` end where the data from `at` on does: at the mark that ends the picture."""
    bits, held = np.uint64(0), 0
    for _ in range(units):
        for colour in range(3):
            dc = dc0 if colour == 0 else (dc1 if colour == 1 else dc2)
            ac = ac0 if colour == 0 else (ac1 if colour == 1 else ac2)
            for _ in range(blocks[colour]):
                place = 0
                while place < 64:
                    # A code and what follows it have 31 bits at most.
                    while held < 32 and at + 1 < data.size:
                        byte = data[at]
                        if byte == 255:
                            if data[at + 1] != 0:
                                break
                            at += 1
                        at += 1
                        bits = bits << np.uint64(8) | np.uint64(byte)
                        held += 8
                    if held >= 16:
                        ahead = bits >> np.uint64(held - 16) & np.uint64(0xFFFF)
                    else:
                        ahead = bits << np.uint64(16 - held) & np.uint64(0xFFFF)
                    code = int(dc[ahead]) if place == 0 else int(ac[ahead])
                    run, more = code >> 4 & 15, code & 15
                    held -= (code >> 8) + more
                    if code == 0 or held < 0:
                        return False
                    if place == 0:
                        place = 1
                    elif more > 0:
                        place += run + 1
                    elif run == 15:
                        place += 16
                    else:
                        break
                if place > 64:
                    return False
    return held < 8 and at + 2 == data.size and data[at] == 255 and data[at + 1] == 217
