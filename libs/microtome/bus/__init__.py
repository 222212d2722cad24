"""The bus: events, work queues and announcements over NATS. Start at `bus.Bus`."""
