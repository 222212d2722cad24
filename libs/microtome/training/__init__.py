"""How the embedded model is made: labelled images in, weights with their recipe out.

Promises: the same seed, data and versions give the same weights; what was used is written into the checkpoint.
Refuses: to train on the images that scores are reported on. Torch is needed by `loss`, `weights` and `loop` only, and
nothing outside this package and `microtome.models` imports it.
"""

from __future__ import annotations
