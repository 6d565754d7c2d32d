"""CRIU: command line, logs, image files."""
