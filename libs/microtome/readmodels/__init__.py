"""Tables that answer questions: folded from the log, rebuilt from it at any time."""
