"""``podthaw proxy``."""

from __future__ import annotations

import argparse
import asyncio

from cri import logs
from cri.cli import config_path
from cri.commands.common import Subparsers, new_command
from cri.config import load_settings
from cri.daemon import Daemon


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = new_command(
        subparsers,
        "proxy",
        "Run the node daemon: relay kubelet's calls to containerd, and start the containers of\n"
        "pods that opt in from their snapshots. Kubelet's containerRuntimeEndpoint is the socket\n"
        "of this daemon; under systemd it is podthaw.socket's.",
        "podthaw proxy\npodthaw --config /etc/containerd/config.toml proxy",
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM; a wrong configuration ends as an error before anything is served."""
    config = config_path(args)
    settings = load_settings(config)
    logs.configure(settings.log_level, settings.log_format)
    daemon = Daemon(settings, config=config)
    daemon.prepare()
    asyncio.run(daemon.run())
    return 0
