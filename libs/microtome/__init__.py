"""Microtome: event-sourced services that turn whole-slide images into every cell on them."""
