"""The commands of ``podthaw``, a module each; :data:`cri.cli.COMMANDS` is their table.

A module's ``add(subparsers)`` declares the command's options and sets ``func``, which takes the
parsed arguments and returns the exit status.
"""
