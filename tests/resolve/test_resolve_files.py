"""Plain files and model folders: what is pinned, and what is refused with which remedy."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx
import onnxruntime
import pytest
import yaml

from harness.core.errors import ResolveError, UsageError
from harness.resolve import pin
from harness.resolve.requirements import recorded_in_folder


def model_folder(model: Path, **changes) -> Path:
    """A minimal MLflow model folder around a model file named model.onnx."""
    described = {"flavors": {"onnx": {"data": "model.onnx"}}, **changes}
    (model.parent / "MLmodel").write_text(yaml.safe_dump(described))
    (model.parent / "requirements.txt").write_text("mlflow==3.17.2\nonnxruntime==1.31.1\n")
    return model.parent


def refusal(reference: Path | str, into: Path) -> ResolveError:
    with pytest.raises(ResolveError) as caught:
        pin(str(reference), into)
    assert caught.value.remedy
    return caught.value


def test_a_file_is_copied_read_only_and_described(make_model, tmp_path):
    model = make_model("flights_v1.onnx")
    pinned = pin(str(model), tmp_path / "pins")
    assert pinned.path.read_bytes() == model.read_bytes()
    assert stat.S_IMODE(pinned.path.stat().st_mode) == 0o444
    assert (pinned.given, pinned.uri) == (str(model), str(model))
    assert (pinned.name, pinned.version) == ("flights_v1", "file")
    assert (pinned.requirements, pinned.training_cutoff_ns, pinned.tags) == ((), None, ())


def test_a_change_of_the_source_does_not_reach_the_pin(make_model, tmp_path):
    model = make_model()
    pinned = pin(str(model), tmp_path / "pins")
    before = pinned.path.read_bytes()
    model.write_bytes(b"something else")
    assert pinned.path.read_bytes() == before


def test_external_data_come_along(make_model, tmp_path):
    model = make_model("m.onnx", external=True)
    pinned = pin(str(model), tmp_path / "pins")
    weights = model.with_name("weights.bin").read_bytes()
    assert pinned.path.with_name("weights.bin").read_bytes() == weights


def test_a_folder_is_pinned_with_its_requirements(make_model, tmp_path):
    folder = model_folder(make_model("v7/model.onnx"))
    pinned = pin(str(folder), tmp_path / "pins")
    assert pinned.requirements == ("onnxruntime==1.31.1",)
    assert pinned.name == "v7"


def test_a_folders_metadata_say_until_when_it_was_trained(make_model, tmp_path):
    metadata = {"harness.training_cutoff": "1970-01-01T00:00:01Z"}
    folder = model_folder(make_model("v7/model.onnx"), metadata=metadata)
    pinned = pin(str(folder), tmp_path / "pins")
    assert pinned.training_cutoff_ns == 1_000_000_000
    assert pinned.tags == (("harness.training_cutoff", "1970-01-01T00:00:01Z"),)


def test_a_cutoff_that_is_no_time_is_refused(make_model, tmp_path):
    folder = model_folder(make_model("v7/model.onnx"), metadata={"harness.training_cutoff": "soon"})
    with pytest.raises(UsageError, match=r"harness.training_cutoff.*'soon' is no ISO 8601 time"):
        pin(str(folder), tmp_path / "pins")


def test_equal_content_is_one_copy(make_model, tmp_path):
    one = pin(str(make_model("a/one.onnx")), tmp_path / "pins")
    two = pin(str(make_model("b/two.onnx")), tmp_path / "pins")
    assert (one.digest, one.path) == (two.digest, two.path)
    assert [p.name for p in (tmp_path / "pins").iterdir()] == [one.digest[:32]]


def test_a_damaged_copy_is_made_again(make_model, tmp_path):
    model = make_model()
    first = pin(str(model), tmp_path / "pins")
    first.path.chmod(0o644)
    first.path.write_bytes(b"damaged")
    assert pin(str(model), tmp_path / "pins").path.read_bytes() == model.read_bytes()


def test_pins_at_the_same_time_share_the_copy(make_model, tmp_path):
    model = str(make_model("m.onnx", external=True))
    with ThreadPoolExecutor(8) as pool:
        pinned = list(pool.map(lambda _: pin(model, tmp_path / "pins"), range(32)))
    assert len({p.path for p in pinned}) == 1
    assert [p.name for p in (tmp_path / "pins").iterdir()] == [pinned[0].digest[:32]]


def test_a_link_to_a_model_is_followed(make_model, tmp_path):
    model = make_model("v3.onnx")
    link = tmp_path / "current.onnx"
    link.symlink_to(model)
    assert pin(str(link), tmp_path / "pins").uri == str(model)


def test_missing(tmp_path):
    assert refusal(tmp_path / "no.onnx", tmp_path).what == "no such file or folder"


def test_empty(tmp_path):
    (tmp_path / "empty.onnx").touch()
    assert refusal(tmp_path / "empty.onnx", tmp_path / "pins").what == "empty.onnx is empty"


def test_a_file_in_ort_format(make_model, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "v2.onnx")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(make_model("v1.onnx"), options)
    error = refusal(tmp_path / "v2.onnx", tmp_path / "pins")
    assert error.what.startswith("v2.onnx is in ORT format")
    assert error.remedy == "Give the .onnx file that it was converted from."
    folder = model_folder(make_model("v3/model.onnx"))
    (folder / "model.onnx").write_bytes((tmp_path / "v2.onnx").read_bytes())
    assert refusal(folder, tmp_path / "pins").what.startswith("model.onnx is in ORT format")


def test_a_producer_called_as_that_format_is_none(make_model, tmp_path):
    model = make_model("m.onnx")
    changed = onnx.load(model, load_external_data=False)
    changed.producer_name = "ORTModel"
    onnx.save(changed, model)
    assert model.read_bytes()[4:8] == b"ORTM"
    assert pin(str(model), tmp_path / "pins").path.is_file()


def test_another_kind_of_file(tmp_path):
    (tmp_path / "model.pkl").write_bytes(b"x")
    assert refusal(tmp_path / "model.pkl", tmp_path / "pins").what == "it is no .onnx file"


def test_folder_without_metadata_names_the_file_to_give(make_model, tmp_path):
    folder = make_model("v1/model.onnx").parent
    error = refusal(folder, tmp_path / "pins")
    assert error.what == "the folder has no MLmodel file"
    assert str(folder / "model.onnx") in error.remedy


def test_folder_of_another_flavor(make_model, tmp_path):
    folder = model_folder(make_model("v1/model.onnx"), flavors={"sklearn": {}, "xgboost": {}})
    assert "flavors: sklearn, xgboost" in refusal(folder, tmp_path / "pins").what


@pytest.mark.parametrize("text", ["[1, 2", "- a list", "", "\x00"])
def test_metadata_that_are_no_mapping(make_model, tmp_path, text):
    folder = model_folder(make_model("v1/model.onnx"))
    (folder / "MLmodel").write_text(text)
    assert "MLmodel" in refusal(folder, tmp_path / "pins").what


@pytest.mark.parametrize("data", ["../outside.onnx", "absent.onnx", "."])
def test_metadata_that_name_a_file_that_is_not_in_the_folder(make_model, tmp_path, data):
    make_model("outside.onnx")
    folder = model_folder(make_model("v1/model.onnx"), flavors={"onnx": {"data": data}})
    assert f"'{data}', which is not in the folder" in refusal(folder, tmp_path / "pins").what


ENV = {"conda": "env/own.yaml", "virtualenv": "own_env.yaml"}


@pytest.mark.parametrize("env", [ENV, ENV["conda"], {"conda": ENV["conda"]}])
def test_the_environment_files_that_mlmodel_names_are_read(env, make_model, tmp_path):
    folder = named_environment(make_model("v1/model.onnx"), env)
    pinned = pin(str(folder), tmp_path / "pins")
    python = "3.9.1" if env is ENV else ""
    assert (pinned.requirements, pinned.python) == (("onnxruntime==1.23.2",), python)


@pytest.mark.parametrize("name", ["none.yaml", "../m.yaml", 7, "env"])
def test_environment_files_that_are_not_in_the_folder_are_refused(name, make_model, tmp_path):
    (tmp_path / "m.yaml").write_text("")
    folder = named_environment(make_model("v1/model.onnx"), {"conda": name})
    assert "names the environment file" in refusal(folder, tmp_path / "pins").what


def named_environment(model, env):
    """A folder with environment files of names of its own, and others beside them that nobody names."""
    flavors = {"onnx": {"data": model.name}, "python_function": {"env": env}}
    folder = model_folder(model, flavors=flavors)
    (folder / "requirements.txt").unlink()
    (folder / "env").mkdir()
    for name, version in (("env/own.yaml", "1.23.2"), ("conda.yaml", "1.20.0")):
        (folder / name).write_text(yaml.safe_dump({"dependencies": [f"onnxruntime={version}"]}))
    (folder / "own_env.yaml").write_text(yaml.safe_dump({"python": "3.9.1"}))
    return folder


@pytest.mark.parametrize("name", ["model.onnx", "extra.txt"])
def test_links_out_of_a_folder(make_model, tmp_path, name):
    outside = make_model("outside.onnx")
    folder = model_folder(make_model("v1/model.onnx"))
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside)
    assert f"{name} is a link that leaves the folder" in refusal(folder, tmp_path / "pins").what


def test_external_data_that_are_a_link_out(make_model, tmp_path):
    model = make_model("v1/m.onnx", external=True)
    secret = tmp_path / "secret"
    secret.write_bytes(b"s")
    model.with_name("weights.bin").unlink()
    model.with_name("weights.bin").symlink_to(secret)
    # Whoever runs it is told that there is no such file beside the model.
    pinned = pin(str(model), tmp_path / "pins")
    assert pinned.external == ()
    assert not list((tmp_path / "pins").rglob("weights.bin"))


@pytest.mark.parametrize(
    ("reference", "what"),
    [
        ("models:/flights", "no version and no alias"),
        ("models:flights@x", "no registered name"),
        ("models://profile/flights/3", "no registered name"),
        ("models:/flights/latest", "'latest' is whatever was registered last"),
        ("models:/flights/Production", "stages are not supported"),
        ("models:/flights/3/model.onnx", "not of the form"),
        ("models:/@champion", "no version and no alias"),
        ("runs:/abc/model", "cannot be pinned"),
        ("s3://bucket/model.onnx", "cannot be pinned"),
    ],
)
def test_references_that_name_no_single_version(reference, what, tmp_path):
    assert what in refusal(reference, tmp_path).what


def test_requirements_keep_what_a_runtime_needs(tmp_path):
    text = (
        "# by hand\n\n"
        "mlflow==3.17.2\nMLflow_skinny>=3\nmlflow-tracing\nmlflow-plugin==1\n"
        "onnxruntime==1.31.1  # pinned\n numpy<3 ; python_version>'3.10'\n"
    )
    (tmp_path / "requirements.txt").write_text(text)
    assert recorded_in_folder(tmp_path, "m").requirements == (
        "mlflow-plugin==1",
        "onnxruntime==1.31.1",
        "numpy<3 ; python_version>'3.10'",
    )
