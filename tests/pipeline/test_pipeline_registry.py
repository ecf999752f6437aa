"""Registration: what lands in the registry, how often, and that MLflow itself can load it."""

from pathlib import Path

import pytest

from harness.core.errors import ResolveError, UsageError
from harness.pipeline.registry import create_database, register
from harness.resolve import pin


def client_of(registry):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=registry.uri, registry_uri=registry.uri)


def versions_of(registry, name="flights"):
    return sorted(
        int(v.version) for v in client_of(registry).search_model_versions(f"name='{name}'")
    )


def test_versions_count_up_and_carry_tags(registry, make_model):
    first = registry.register(make_model("v1.onnx"), tags={"team": "delay"})
    second = registry.register(
        make_model("v2.onnx", scale=3.0), alias="champion", training_cutoff="2013-08-01"
    )
    assert (first, second) == ("1", "2")
    client = client_of(registry)
    assert client.get_model_version("flights", "1").tags["team"] == "delay"
    champion = client.get_model_version_by_alias("flights", "champion")
    assert str(champion.version) == "2"
    assert champion.tags["harness.training_cutoff"] == "2013-08-01"


@pytest.mark.parametrize("external", [False, True])
def test_mlflow_loads_what_was_registered(registry, make_model, external):
    import mlflow
    import numpy as np

    version = registry.register(
        make_model("m.onnx", external=external), requirements=("onnxruntime==1.31.1",)
    )
    source = client_of(registry).get_model_version("flights", version).source
    assert mlflow.onnx.load_model(source).graph.name == "scaled"
    predicted = mlflow.pyfunc.load_model(source).predict(np.ones((3, 1024), np.float32))
    assert predicted["y"].tolist() == np.full((3, 1024), 2.0).tolist()


def test_the_same_content_is_the_same_version(registry, make_model):
    model = make_model()
    assert registry.register(model) == "1"
    assert registry.register(model, alias="champion", training_cutoff="2013-08-01") == "1"
    assert versions_of(registry) == [1]
    found = client_of(registry).get_model_version_by_alias("flights", "champion")
    assert found.tags["harness.training_cutoff"] == "2013-08-01"


def test_other_requirements_are_another_version(registry, make_model):
    model = make_model()
    registry.register(model, requirements=("onnxruntime==1.30.0",))
    assert registry.register(model, requirements=("onnxruntime==1.31.1",)) == "2"


def test_the_same_content_under_another_name_is_a_version_of_its_own(registry, make_model):
    model = make_model()
    assert registry.register(model, name="flights") == "1"
    assert registry.register(model, name="flight delays") == "1"


def test_a_model_that_does_not_load_can_be_registered(registry, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"this is no protobuf")
    version = registry.register(broken)
    pinned = pin(f"models:/flights/{version}", tmp_path / "pins", registry_uri=registry.uri)
    assert pinned.path.read_bytes() == b"this is no protobuf"


def test_a_registered_folder_can_be_registered_again(registry, make_model):
    registry.register(
        make_model(), requirements=("onnxruntime==1.31.1",), training_cutoff="2013-08-01"
    )
    folder = client_of(registry).get_model_version("flights", "1").source
    registry.register(Path(folder), name="copy")
    copied = client_of(registry).get_model_version("copy", "1")
    original = client_of(registry).get_model_version("flights", "1")
    assert copied.tags == original.tags


def test_the_source_may_go_after_registration(registry, make_model, tmp_path):
    model = make_model()
    registry.register(model)
    model.unlink()
    pinned = pin("models:/flights/1", tmp_path / "pins", registry_uri=registry.uri)
    assert pinned.path.is_file()


def test_a_missing_model_leaves_no_version(registry, tmp_path):
    with pytest.raises(ResolveError, match="no such file"):
        registry.register(tmp_path / "absent.onnx")
    assert versions_of(registry) == []


def test_a_cutoff_must_be_a_time(registry, make_model):
    with pytest.raises(UsageError, match="no ISO 8601 time"):
        registry.register(make_model(), training_cutoff="last summer")
    assert versions_of(registry) == []


def test_only_local_registries_are_written(make_model):
    with pytest.raises(UsageError, match=r"http://gate:\*\*\*@host:5000: only a local sqlite"):
        register(make_model(), name="m", registry_uri="http://gate:s3cret@host:5000")


def test_creating_a_database_leaves_an_existing_one_alone(registry, make_model):
    registry.register(make_model())
    create_database(registry.uri)
    assert versions_of(registry) == [1]
