"""The zip that a child runs from: our modules as byte code, and as source for other interpreters."""

import importlib.util
import io
import subprocess
import sys
import zipfile

import pytest

from harness.sandbox.bundle import bundle

MODULES = ("child.frames", "child.columns", "child.external", "child.lockdown", "child.worker")
LOADED = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    print(importlib.import_module(f"harness.sandbox.{name}").__file__)
"""


def loaded(path):
    """Files of the modules that a child loads from a zip."""
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", LOADED, path, *MODULES],
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    return done.stdout.split()


@pytest.mark.parametrize(("known", "suffix"), [(True, ".pyc"), (False, ".py")])
def test_byte_code_is_taken_where_it_is_known_and_source_elsewhere(tmp_path, known, suffix):
    path = tmp_path / "bundle.zip"
    content = bundle()
    if not known:
        magic = importlib.util.MAGIC_NUMBER
        content = content.replace(magic, bytes([magic[0] ^ 1, *magic[1:]]))
    path.write_bytes(content)
    expected = [f"{path}/harness/sandbox/{m.replace('.', '/')}{suffix}" for m in MODULES]
    assert loaded(path) == expected


def test_only_the_sandboxs_own_modules_are_in_it():
    with zipfile.ZipFile(io.BytesIO(bundle())) as archive:
        names = {n.removesuffix("c") for n in archive.namelist()}
    assert all(
        n.startswith("harness/sandbox/child/")
        or n in {"__main__.py", "harness/__init__.py", "harness/sandbox/__init__.py", "harness/sandbox/graph_bodies.py", "harness/sandbox/graph_called.py", "harness/sandbox/graph_child.py", "harness/sandbox/graph_cut.py", "harness/sandbox/graph_defaults.py", "harness/sandbox/graph_description.py", "harness/sandbox/graph_edits.py", "harness/sandbox/graph_function.py", "harness/sandbox/graph_names.py", "harness/sandbox/graph_nodes.py", "harness/sandbox/graph_numbers.py", "harness/sandbox/graph_orders.py", "harness/sandbox/graph_pack.py", "harness/sandbox/graph_precision.py", "harness/sandbox/graph_random.py", "harness/sandbox/graph_rounding.py", "harness/sandbox/graph_running.py", "harness/sandbox/graph_types.py"}
        for n in names
    )  # fmt: skip
