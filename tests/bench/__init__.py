"""Measurements against the targets; each module can be run by itself."""
