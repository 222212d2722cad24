"""Who works on a job right now, by the clock of the database."""
