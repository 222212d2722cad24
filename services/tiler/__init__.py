"""Plans a job's tiles, decodes them, and feeds them to inference."""
