"""Registries: where they are, who logs in how, what they have."""
