#!/usr/bin/python3
"""runc on a cgroup v2 hierarchy that has no controllers, since the machine has them in v1's.

runc refuses to start a container with a limit that it cannot set, and containerd gives every
sandbox CPU shares. So limits are taken out of the bundle; the access to devices stays.
"""

import json
import os
import sys

RUNC = "/usr/sbin/runc"

arguments = sys.argv[1:]
if "--bundle" in arguments and not {"create", "restore"}.isdisjoint(arguments):
    path = os.path.join(arguments[arguments.index("--bundle") + 1], "config.json")
    with open(path, encoding="utf-8") as file:
        spec = json.load(file)
    resources = spec["linux"].get("resources") or {}
    spec["linux"]["resources"] = {"devices": resources.get("devices") or []}
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        json.dump(spec, file)
    os.replace(f"{path}.new", path)
os.execv(RUNC, ["runc", *arguments])
