"""Containers while they run: what serves in one, and how it is kept."""
