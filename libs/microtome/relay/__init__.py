"""From the log to the bus: the log is the outbox."""
