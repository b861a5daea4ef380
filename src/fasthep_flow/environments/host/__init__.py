"""This machine: what it has, its processes, locks, and folders for a while."""
