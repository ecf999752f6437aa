"""The sandboxed program as one zip in memory, so that a child finds it and nothing else of ours.

The zip keeps the package path `harness.sandbox.child`, with empty parents: inside the child, any other
module of the product does not exist, whatever environment the child runs in.

Beside each source lies its byte code (PEP 552, never checked against a file), which saves a child the
compiler: a seventh of its processor time until it is ready. An interpreter with another magic number
takes the source. It is the parent's own byte code: compiling here would take as long as it saves.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import marshal
import zipfile
from importlib import resources
from importlib.abc import InspectLoader

WORKER = "harness.sandbox.child.worker"
GRAPHS = "harness.sandbox.graph_child"
TRACER = "harness.sandbox.child.tracer"
_MAIN = """\
import importlib
import sys

importlib.import_module(sys.argv[1]).main(sys.argv[2:])
"""
_MAIN_NAME = "__main__.py"
_GRAPHS = (
    "bodies",
    "called",
    "child",
    "cut",
    "defaults",
    "description",
    "edits",
    "function",
    "names",
    "nodes",
    "numbers",
    "orders",
    "pack",
    "precision",
    "random",
    "rounding",
    "running",
    "types",
)
_UNCHECKED_HASH = 1


@functools.cache
def bundle() -> bytes:
    """The zip's bytes; the same bytes for the same sources."""
    sandbox = resources.files("harness.sandbox")
    files = {
        _MAIN_NAME: _MAIN,
        "harness/__init__.py": "",
        "harness/sandbox/__init__.py": "",
    }
    for name in _GRAPHS:
        files[f"harness/sandbox/graph_{name}.py"] = (sandbox / f"graph_{name}.py").read_text()
    for entry in (sandbox / "child").iterdir():
        if entry.name.endswith(".py"):
            files[f"harness/sandbox/child/{entry.name}"] = entry.read_text()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        for name, source in sorted(files.items()):
            packed.writestr(zipfile.ZipInfo(name), source)
            if source and name != _MAIN_NAME:
                packed.writestr(zipfile.ZipInfo(f"{name}c"), _byte_code(name, source))
    return archive.getvalue()


def _byte_code(name: str, source: str) -> bytes:
    """Content of the .pyc file of one of our modules."""
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    spec = importlib.util.find_spec(module)
    loader = spec.loader if spec else None
    code = loader.get_code(module) if isinstance(loader, InspectLoader) else None
    return b"".join(
        (
            importlib.util.MAGIC_NUMBER,
            _UNCHECKED_HASH.to_bytes(4, "little"),
            importlib.util.source_hash(source.encode()),
            marshal.dumps(code or compile(source, name, "exec", dont_inherit=True)),
        )
    )
