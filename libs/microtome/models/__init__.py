"""Models as torch knows them: the network's definition, and the way from its weights to a model folder.

Refuses: to be imported by what runs a model; that needs neither torch nor this package.
"""

from __future__ import annotations
