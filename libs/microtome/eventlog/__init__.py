"""The append-only event log: the only truth of the system."""
