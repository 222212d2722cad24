"""How much of the real images is tissue, judged by eye: for tests of the mask and for its comparison with others.

Ranges were judged while the mask was made. `MISSED`: where the mask is known not to agree.
"""

from __future__ import annotations

# µm per level-0 pixel, if known, and between which shares tissue lies.
SLIDES = {
    "CMU-1-Small-Region.svs": (0.499, 0.38, 0.46), "TCGA-CR-7395-01A-01-TS1.svs": (None, 0.60, 0.70),
    "OS-2-ndpi.ome.tif": (0.2271, 0.84, 0.96), "kidney-48-5.tif": (None, 0.0, 0.0),
}  # fmt: skip
# µm per pixel of the tiles once they are halved, by the level that they were cut from.
LEVEL0, LEVEL1 = 1.0, 4.0
TILES = {
    "almost-white-2": (LEVEL1, 0.02, 0.06), "high-nuclei-score-level0": (LEVEL0, 0.95, 1),
    "high-nuclei-score-level2": (LEVEL1, 0.12, 0.20), "high-nuclei-score-red-pen-level1": (LEVEL1, 0.84, 0.93),
    "low-nuclei-score-level0": (LEVEL0, 0.85, 1), "low-nuclei-score-level1": (LEVEL1, 0.85, 1),
    "medium-nuclei-score-green-pen-level1": (LEVEL1, 0.40, 0.55), "medium-nuclei-score-level0": (LEVEL0, 0.9, 1),
    "medium-nuclei-score-level1": (LEVEL1, 0.75, 0.95), "medium-nuclei-score-level1-2": (LEVEL1, 0.97, 1),
    "medium-nuclei-score-level2": (LEVEL1, 0.75, 0.87), "no-tissue": (LEVEL1, 0, 0.001),
    "no-tissue2": (LEVEL1, 0, 0.02), "no-tissue-green-pen": (LEVEL1, 0, 0.001), "no-tissue-line": (LEVEL1, 0, 0.001),
    "no-tissue-red-pen": (LEVEL1, 0, 0.03), "tissue-level0-4302-10273-4814-10785": (LEVEL0, 0.8, 1),
    "tissue-level0-7352-11762-7864-12274": (LEVEL0, 0.85, 1), "tissue-level2-1784-6289-5880-10386": (LEVEL1, 0.7, 0.85),
    "tissue-level2-3000-7666-7096-11763": (LEVEL1, 0.75, 0.9),
    "tissue-level2-4640-4649-8736-8746": (LEVEL1, 0.72, 0.88),
    "tissue-level2-4760-5241-8856-9338": (LEVEL1, 0.72, 0.88), "very-low-nuclei-score-level0": (LEVEL0, 0.97, 1),
    "very-low-nuclei-score-red-pen-level1": (LEVEL1, 0.2, 0.6),
}  # fmt: skip
# Red ink out of focus over fat is given up with what is under it.
MISSED = frozenset({"very-low-nuclei-score-red-pen-level1"})
