"""Describe an analysis once, in YAML; run every task in its own environment."""
