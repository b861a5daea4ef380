"""Devices: which there are, why not, and which of them a task gets."""
