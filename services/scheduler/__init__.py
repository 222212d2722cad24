"""Decides which job starts when, and publishes the log."""
