"""Runs the network on tiles of all running jobs and stores their cells."""
