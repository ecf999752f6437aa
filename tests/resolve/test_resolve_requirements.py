"""What a version records of its runtime, wherever it is written."""

import pytest
import yaml

from harness.core.errors import ResolveError
from harness.resolve import pin
from harness.resolve.requirements import Recorded, recorded_in_folder, requirements_from_text


def folder(tmp_path, **files):
    for name, content in files.items():
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        (tmp_path / name.replace("__", ".")).write_text(text)
    return recorded_in_folder(tmp_path, "models:/m/1")


CONDA = {"dependencies": ["python=3.10.4", "pip", {"pip": ["mlflow==3.17.2", "numpy==1.26.4"]}]}


def test_requirements_txt_comes_first(tmp_path):
    found = folder(tmp_path, requirements__txt="onnxruntime==1.23.2\n", conda__yaml=CONDA)
    assert found == Recorded(requirements=("onnxruntime==1.23.2",), python="3.10.4")


def test_conda_is_read_where_requirements_are_missing(tmp_path):
    found = folder(tmp_path, conda__yaml=CONDA)
    assert found == Recorded(requirements=("numpy==1.26.4",), python="3.10.4")


def test_the_python_comes_from_python_env(tmp_path):
    found = folder(tmp_path, python_env__yaml={"python": "3.11.7"}, conda__yaml=CONDA)
    assert found.python == "3.11.7"


def test_a_python_that_is_no_version_is_not_recorded(tmp_path):
    assert folder(tmp_path, python_env__yaml={"python": "../evil"}).python == ""


def test_a_folder_without_any_of_them_records_nothing(tmp_path):
    assert folder(tmp_path) == Recorded()


def test_a_file_that_is_no_yaml_is_refused(tmp_path):
    with pytest.raises(ResolveError, match=r"conda.yaml is no YAML"):
        folder(tmp_path, conda__yaml="[1, 2")


def test_hashes_on_lines_of_their_own_stay_with_their_requirement():
    text = "numpy==2.4.6 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\nonnxruntime==1.26.0\n"
    assert requirements_from_text(text) == (
        "numpy==2.4.6 --hash=sha256:aa --hash=sha256:bb",
        "onnxruntime==1.26.0",
    )


def test_a_plain_file_may_have_requirements_beside_it(make_model, tmp_path):
    model = make_model("old.onnx")
    alone = pin(str(model), tmp_path / "pins")
    model.with_name("old.requirements.txt").write_text("onnxruntime==1.23.2\n")
    pinned = pin(str(model), tmp_path / "pins")
    assert pinned.requirements == ("onnxruntime==1.23.2",)
    assert pinned.digest != alone.digest
