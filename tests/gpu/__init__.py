"""Real GPU runs: capture and restore on a machine with a GPU that has nothing of its own.

See README.md.
"""
