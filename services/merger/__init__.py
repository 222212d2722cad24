"""Turns the cells of finished tiles into a job's artifacts."""
