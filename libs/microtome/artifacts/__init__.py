"""The files that a job leaves to its user, and how each is written.

Promises: a job's artifacts appear all at once, whole, with their digests; coordinates are level-0
pixels with the origin at the slide's upper left corner; memory is bounded by one tile's cells.
Refuses: to know of workflows, NATS or Postgres.
"""
