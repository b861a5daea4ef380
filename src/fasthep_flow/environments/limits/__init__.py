"""Limits: who holds a task to its share, and what the kernel counts."""
