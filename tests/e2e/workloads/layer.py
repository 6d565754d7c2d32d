"""Behaviours of the writable layer: everything that can be done to an image's files."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from functools import partial
from pathlib import Path

from .behaviour import Answer, Behaviour, attempt, behaviour

HOME = Path("/opt/layer")


def _xattrs(path: Path) -> list[list[str]]:
    return sorted(
        [name, os.getxattr(path, name, follow_symlinks=False).hex()]
        for name in os.listxattr(path, follow_symlinks=False)
    )


def describe(root: Path) -> dict[str, list[object]]:
    """Every entry below a directory with type, mode, owner, links, size, content and xattrs."""
    found: dict[str, list[object]] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        entry: list[object] = [oct(status.st_mode), status.st_uid, status.st_gid]
        if stat.S_ISLNK(status.st_mode):
            entry.append(str(path.readlink()))
        elif stat.S_ISREG(status.st_mode):
            entry += [
                status.st_nlink,
                status.st_size,
                int(status.st_mtime),
                hashlib.sha256(path.read_bytes()).hexdigest()[:16],
            ]
        elif stat.S_ISCHR(status.st_mode):
            entry.append(status.st_rdev)
        entry.append(attempt(partial(_xattrs, path)))
        found[str(path.relative_to(root))] = entry
    return found


@behaviour
class NewFiles(Behaviour):
    """Files, modes, owners, times, links, xattrs, sparse and odd names."""

    root_only = True
    writes_image = True

    def set_up(self) -> None:
        root = HOME / "new"
        (root / "deep/er/est").mkdir(parents=True)
        (root / "deep/er/est/file").write_text("deep")
        (root / "empty").mkdir(mode=0o700)
        (root / "sticky").mkdir()
        (root / "sticky").chmod(0o3777)
        (root / "setuid").write_text("#!/bin/sh\n")
        os.chown(root / "setuid", 1000, 2000)
        (root / "setuid").chmod(0o4755)
        (root / "odd \n name \u00e4 \udcff").write_text("odd")
        (root / ("long-" + "n" * 240)).write_text("long")
        (root / ".wh-like").write_text("no whiteout")
        (root / "symlink").symlink_to("/nowhere/../odd")
        os.lchown(root / "symlink", 5, 6)
        (root / "hard-1").write_text("hard")
        os.link(root / "hard-1", root / "hard-2")
        os.link(root / "hard-1", root / "deep/hard-3")
        os.mkfifo(root / "fifo", 0o620)
        os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.utime(root / "hard-1", (1_000_000_000, 1_234_567_890))
        with (root / "sparse").open("wb") as file:
            file.seek(64 << 20)
            file.write(b"end")
        os.setxattr(root / "setuid", "user.colour", b"blue\0green")
        # CAP_NET_BIND_SERVICE, as setcap writes it.
        capability = bytes.fromhex("0100000200040000000000000000000000000000")
        self.capability = attempt(
            lambda: os.setxattr(root / "hard-1", "security.capability", capability)
        )
        self.before = describe(root)

    def observe(self) -> Answer:
        now = describe(HOME / "new")
        differs = {
            name: [self.before.get(name), now.get(name)]
            for name in self.before | now
            if self.before.get(name) != now.get(name)
        }
        return {
            "entries": len(now),
            "differs": {ascii(name): repr(value) for name, value in differs.items()},
            "sparse": (HOME / "new/sparse").stat().st_blocks * 512 < 1 << 20,
        }


@behaviour
class ImageFiles(Behaviour):
    """Image files modified, deleted, renamed, re-owned; directories removed and replaced."""

    root_only = True
    writes_image = True

    def set_up(self) -> None:
        share = Path("/usr/share")
        with Path("/etc/hostname-like").open("w") as file:
            file.write("new in an image directory")
        with Path("/etc/services" if Path("/etc/services").exists() else "/etc/profile").open(
            "a"
        ) as file:
            file.write("# modified\n")
        Path("/etc/debian_version").unlink()
        Path("/etc/issue").chmod(0o600)
        os.chown("/etc/issue.net", 1000, 1000)
        Path("/etc/os-release-copy").symlink_to("/usr/lib/os-release")
        shutil.rmtree("/etc/skel")  # a directory of the image, gone
        shutil.rmtree("/etc/terminfo", ignore_errors=True)
        Path("/etc/terminfo").mkdir()  # … and one replaced: opaque
        Path("/etc/terminfo/only").write_text("only this")
        # Overlay answers EXDEV to a rename of an image's directory, so this copies and removes.
        shutil.move("/etc/pam.d", "/etc/pam-renamed")
        Path("/etc/cron.d").mkdir(exist_ok=True)
        shutil.rmtree("/etc/default")
        Path("/etc/default").write_text("a file where a directory was")
        Path("/etc/networks").unlink(missing_ok=True)
        Path("/etc/networks").mkdir()  # a directory where a file was
        if (share / "base-files").is_dir():
            (share / "base-files").chmod(0o711)
        self.paths = [Path("/etc"), share / "base-files"]
        self.before = [self._describe(path) for path in self.paths]

    @staticmethod
    def _describe(path: Path) -> dict[str, list[object]]:
        # Kubelet's own files are new in each pod.
        return {
            name: entry
            for name, entry in describe(path).items()
            if name not in {"hosts", "hostname", "resolv.conf", "watched-new"}
        }

    def observe(self) -> Answer:
        differs = {}
        for path, before in zip(self.paths, self.before, strict=True):
            now = self._describe(path)
            for name in before | now:
                if before.get(name) != now.get(name):
                    differs[f"{path}/{name}"] = repr([before.get(name), now.get(name)])
        return {
            "differs": differs,
            "deleted": Path("/etc/debian_version").exists(),
            "opaque": os.listdir("/etc/terminfo"),
            "replaced": [Path("/etc/default").is_file(), Path("/etc/networks").is_dir()],
            "renamed": bool(os.listdir("/etc/pam-renamed")) and not Path("/etc/pam.d").exists(),
        }


@behaviour
class OpenImageFiles(Behaviour):
    """Image files held open and mapped while they are replaced, renamed or deleted."""

    root_only = True
    writes_image = True

    def set_up(self) -> None:
        root = HOME / "open"
        root.mkdir(parents=True)
        shutil.copy("/usr/lib/os-release", root / "a")
        self.replaced = (root / "a").open("rb", buffering=0)
        (root / "b").write_text("the new one")
        (root / "b").rename(root / "a")
        # Opened while it is still the image's, then copied up by a later write.
        target = Path("/etc/gai.conf" if Path("/etc/gai.conf").exists() else "/etc/shells")
        self.lower = target.open("rb", buffering=0)
        self.target = target
        with target.open("a") as file:
            file.write("# appended\n")
        # An image file that is open and was deleted.
        victim = Path("/etc/login.defs" if Path("/etc/login.defs").exists() else "/etc/bash.bashrc")
        self.gone = victim.open("rb", buffering=0)
        victim.unlink()
        self.victim = victim

    def observe(self) -> Answer:
        return {
            "replaced": len(self.replaced.read()) > 50,
            "new": (HOME / "open/a").read_text(),
            "lower": len(self.lower.read()) > 10,
            "appended": self.target.read_text().endswith("# appended\n"),
            "gone": len(self.gone.read()) > 50,
            "victim": self.victim.exists(),
        }
