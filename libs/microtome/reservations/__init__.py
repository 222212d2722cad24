"""Room on the disk that is taken or promised."""
