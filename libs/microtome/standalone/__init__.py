"""The whole way from an image file to a job's files in one process, without the stack."""
