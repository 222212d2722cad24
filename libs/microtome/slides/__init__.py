"""Whole-slide images: opening, checking, converting, reading and drawing them.

Promises: what a slide says about itself is read once and recorded (`facts`, `inspection`), every pixel handed
out is the same however the slide is tiled (`reader`), and memory is bounded by the region asked for.
Refuses: to know of models, jobs, users or messages; to apply ICC profiles; to guess a pixel size.
"""
