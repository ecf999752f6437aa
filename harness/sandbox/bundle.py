"""The sandboxed program as one zip in memory, so that a child finds it and nothing else of ours.

The zip keeps the package path `harness.sandbox.child`, with empty parents: inside the child, any other
module of the product does not exist, whatever environment the child runs in.
"""

from __future__ import annotations

import functools
import io
import zipfile
from importlib import resources

WORKER = "harness.sandbox.child.worker"
GRAPHS = "harness.sandbox.graph_child"
_MAIN = """\
import importlib
import sys

importlib.import_module(sys.argv[1]).main(sys.argv[2:])
"""


@functools.cache
def bundle() -> bytes:
    """The zip's bytes; the same bytes for the same sources."""
    sandbox = resources.files("harness.sandbox")
    files = {
        "__main__.py": _MAIN,
        "harness/__init__.py": "",
        "harness/sandbox/__init__.py": "",
        "harness/sandbox/graph_child.py": (sandbox / "graph_child.py").read_text(),
    }
    for entry in (sandbox / "child").iterdir():
        if entry.name.endswith(".py"):
            files[f"harness/sandbox/child/{entry.name}"] = entry.read_text()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        for name in sorted(files):
            packed.writestr(zipfile.ZipInfo(name), files[name])
    return archive.getvalue()
