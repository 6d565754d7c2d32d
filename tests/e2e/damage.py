"""Snapshots that are made wrong on purpose, in the store of a node."""

from __future__ import annotations

from tests.e2e.stack import STORE, Stack

_REPUBLISH = r"""
import hashlib, json, os, shutil, sys
store, source, namespace, name, code, artifact_code = sys.argv[1:]
staging = f"{store}/tmp/damaged"
shutil.rmtree(staging, ignore_errors=True)
shutil.copytree(source, staging)
manifest = json.load(open(f"{staging}/manifest.json"))
here = staging
exec(artifact_code)  # changes files; their digests are taken again
if artifact_code:
    for entry in manifest["artifacts"]:
        path = f"{staging}/{entry['path']}"
        if os.path.exists(path):
            listed = f"{staging}/pages.sums" if entry["path"] == "pages" else path
            data = open(listed, "rb").read()
            entry["size"], entry["sha256"] = os.path.getsize(path), hashlib.sha256(data).hexdigest()
exec(code)  # changes ``manifest``, or files behind its back
os.chmod(f"{staging}/manifest.json", 0o600)
data = json.dumps(manifest, indent=1, sort_keys=True).encode() + b"\n"
open(f"{staging}/manifest.json", "wb").write(data)
digest = hashlib.sha256(data).hexdigest()
shutil.rmtree(f"{store}/snapshots/{digest}", ignore_errors=True)
os.rename(staging, f"{store}/snapshots/{digest}")
os.makedirs(f"{store}/names/{namespace}", exist_ok=True)
path = f"{store}/names/{namespace}/{name}"
with open(path, "w") as file:
    file.write(f"sha256:{digest}" + os.environ["END"])
os.chmod(path, 0o600)
print(f"sha256:{digest}")
"""


def republish(stack: Stack, source: str, name: str, *, code: str = "", artifacts: str = "") -> str:
    """Publish a changed copy of the snapshot ``e2e/source`` as ``e2e/name``; its digest.

    ``code`` changes the dictionary ``manifest`` (or files in ``here``, unnoticed by it);
    ``artifacts`` changes files whose digests are then right in the manifest.
    """
    newline = stack.node.read(f"{STORE}/names/e2e/{source}").endswith(b"\n")
    end = "\n" if newline else ""
    # Something of its own in each manifest: a digest that broke elsewhere is quarantined.
    unique = f"\nmanifest['created'] = manifest['created'][:19] + '.{abs(hash(name)) % 10**6}Z'\n"
    script = ["python3", "-c", _REPUBLISH, STORE, stack.snapshot(f"e2e/{source}"), "e2e", name]
    answer = stack.node.exec(
        [*script, code + unique, artifacts],
        env={"END": end},
    )
    return answer.stdout.strip()


def tamper(stack: Stack, reference: str, code: str) -> None:
    """Change files of a published snapshot in place; ``here`` is its directory."""
    stack.node.exec(["python3", "-c", f"import os; here = {stack.snapshot(reference)!r}\n{code}"])
