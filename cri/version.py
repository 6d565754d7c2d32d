"""The version of this Podthaw; a test keeps it equal to pyproject.toml's.

A constant, since the tree that is installed on a node has no package metadata.
"""

VERSION = "0.1.0"
