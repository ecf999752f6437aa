"""MLflow costs seconds to import: only registry references may pay for it."""

import subprocess
import sys

PROGRAM = """
import sys
from pathlib import Path
from harness.resolve import pin
pin(sys.argv[1], Path(sys.argv[2]))
print(*sorted({"mlflow", "onnx", "onnxruntime", "pandas", "sqlalchemy"} & set(sys.modules)))
"""


def test_a_plain_file_imports_nothing_heavy(make_model, tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(make_model()), str(tmp_path / "pins")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""
