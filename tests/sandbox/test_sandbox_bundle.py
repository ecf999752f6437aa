import ast
import subprocess
import sys
from pathlib import Path

import pytest

import harness.sandbox
from harness.sandbox.bundle import bundle

SANDBOX = Path(harness.sandbox.__file__).parent
ALLOWED = sys.stdlib_module_names | {"numpy", "onnxruntime"}
CHILD = sorted((SANDBOX / "child").glob("*.py"))


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", CHILD, ids=lambda p: p.name)
def test_the_child_imports_nothing_of_the_product(path):
    strangers = {
        name
        for name in imports_of(path)
        if name.split(".")[0] not in ALLOWED and not name.startswith("harness.sandbox.child")
    }
    assert strangers == set()


def test_inside_the_bundle_the_rest_of_the_product_does_not_exist(tmp_path):
    path = tmp_path / "bundle.zip"
    path.write_bytes(bundle())
    code = "import sys; sys.path.insert(0, sys.argv[1]); import harness.core"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert "No module named 'harness.core'" in done.stderr


def test_the_same_sources_give_the_same_bytes():
    assert bundle.__wrapped__() == bundle()


def test_importing_the_parent_side_loads_no_runtime():
    code = (
        "import sys, harness.sandbox.process, harness.sandbox.graphs;"
        "print([m for m in ('onnx', 'onnxruntime', 'mlflow', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=SANDBOX.parents[1],
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
