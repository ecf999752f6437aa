"""Registered versions on a real sqlite registry: pinned once, checked, and explained when wrong."""

import socket
import sqlite3
import time
from pathlib import Path

import pytest
from ports import reserved

from harness.core.errors import ResolveError
from harness.resolve import pin

CUTOFF = "2013-07-31T23:59:59Z"
CUTOFF_NS = 1_375_315_199_000_000_000


def client_of(registry):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=registry.uri, registry_uri=registry.uri)


def stored_model(registry, version: str) -> Path:
    return Path(client_of(registry).get_model_version("flights", version).source) / "model.onnx"


def refusal(reference: str, into: Path, uri: str | None) -> ResolveError:
    with pytest.raises(ResolveError) as caught:
        pin(reference, into, registry_uri=uri)
    return caught.value


def answer(model: Path) -> float:
    """What the model makes of 1."""
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return float(session.run(None, {"x": np.ones((1, 1024), np.float32)})[0][0, 0])


def test_an_alias_is_pinned_to_its_version(registry, make_model, tmp_path):
    model = make_model("v1.onnx")
    registry.register(
        model, alias="champion", training_cutoff=CUTOFF, requirements=("onnxruntime==1.31.1",)
    )
    pinned = pin("models:/flights@champion", tmp_path / "pins", registry_uri=registry.uri)
    assert (pinned.given, pinned.uri) == ("models:/flights@champion", "models:/flights/1")
    assert (pinned.name, pinned.version) == ("flights", "1")
    assert pinned.requirements == ("onnxruntime==1.31.1",)
    assert pinned.training_cutoff_ns == CUTOFF_NS
    assert pinned.tags == (
        ("harness.sha256", pinned.digest),
        ("harness.training_cutoff", CUTOFF),
    )
    assert pinned.path.read_bytes() == model.read_bytes()


def test_two_references_share_a_folder(registry, make_model, tmp_path):
    registry.register(make_model("v1.onnx", external=True), alias="champion")
    registry.register(make_model("v2.onnx", scale=3.0))
    old = pin("models:/flights@champion", tmp_path / "pins", registry_uri=registry.uri)
    new = pin("models:/flights/2", tmp_path / "pins", registry_uri=registry.uri)
    assert (old.version, new.version) == ("1", "2")
    assert old.digest != new.digest
    assert old.path.with_name("weights.bin").is_file()


def test_a_moved_alias_does_not_change_the_pin(registry, make_model, tmp_path):
    first = make_model("v1.onnx")
    registry.register(first, alias="champion")
    pinned = pin("models:/flights@champion", tmp_path / "pins", registry_uri=registry.uri)
    registry.register(make_model("v2.onnx", scale=3.0), alias="champion")
    again = pin(pinned.uri, tmp_path / "pins", registry_uri=registry.uri)
    assert (again.version, again.digest) == ("1", pinned.digest)
    assert pinned.path.read_bytes() == first.read_bytes()


def test_the_alias_is_read_once(registry, make_model, tmp_path, monkeypatch):
    """The alias moves right after it was resolved: version and bytes still belong together."""
    from mlflow.tracking import MlflowClient

    registry.register(make_model("v1.onnx"), alias="champion")
    registry.register(make_model("v2.onnx", scale=3.0))
    resolve = MlflowClient.get_model_version_by_alias

    def resolve_then_move(self, name, alias):
        found = resolve(self, name, alias)
        self.set_registered_model_alias(name, alias, "2")
        return found

    monkeypatch.setattr(MlflowClient, "get_model_version_by_alias", resolve_then_move)
    pinned = pin("models:/flights@champion", tmp_path / "pins", registry_uri=registry.uri)
    assert pinned.version == "1"
    assert pinned.path.read_bytes() == (tmp_path / "v1.onnx").read_bytes()


def test_tampered_artifacts_are_refused(registry, make_model, tmp_path):
    version = registry.register(make_model())
    stored = stored_model(registry, version)
    stored.chmod(0o644)
    stored.write_bytes(make_model("evil.onnx", scale=9.0).read_bytes())
    error = refusal("models:/flights/1", tmp_path / "pins", registry.uri)
    assert error.where == "models:/flights/1"
    assert "refused, its bytes are not those that were registered" in error.what
    assert list((tmp_path / "pins").iterdir()) == []


def test_tampered_requirements_are_refused(registry, make_model, tmp_path):
    version = registry.register(make_model(), requirements=("onnxruntime==1.31.1",))
    stored_model(registry, version).with_name("requirements.txt").write_text("evil==1\n")
    assert "refused" in refusal("models:/flights/1", tmp_path / "pins", registry.uri).what


def test_artifacts_that_are_gone(registry, make_model, tmp_path):
    version = registry.register(make_model())
    folder = stored_model(registry, version).parent
    folder.rename(folder.with_name("elsewhere"))
    error = refusal("models:/flights/1", tmp_path / "pins", registry.uri)
    assert f"there is no folder {folder}" in error.what


def test_without_a_recorded_digest_the_pin_says_so(registry, make_model, tmp_path):
    version = registry.register(make_model())
    client_of(registry).delete_model_version_tag("flights", version, "harness.sha256")
    pinned = pin("models:/flights/1", tmp_path / "pins", registry_uri=registry.uri)
    assert "recorded no digest" in dict(pinned.tags)["harness.note"]


def test_a_model_logged_by_mlflow_itself(registry, make_model, tmp_path, monkeypatch):
    """As others register: a run, a logged model, weights moved to a file with a random name."""
    import mlflow
    import onnx

    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(registry.uri)
    model = onnx.load(str(make_model()))
    try:
        with mlflow.start_run():
            mlflow.onnx.log_model(
                model, name="m", registered_model_name="theirs",
                pip_requirements=["onnxruntime==1.31.1"],
            )  # fmt: skip
    finally:
        mlflow.set_tracking_uri(None)
    pinned = pin("models:/theirs/1", tmp_path / "pins", registry_uri=registry.uri)
    assert len(list(pinned.path.parent.iterdir())) == 2
    assert answer(pinned.path) == 2.0
    assert pinned.requirements == ("onnxruntime==1.31.1",)


def test_a_version_that_is_not_onnx(registry, tmp_path):
    folder = tmp_path / "sk"
    folder.mkdir()
    (folder / "MLmodel").write_text("flavors: {sklearn: {}}")
    client = client_of(registry)
    client.create_registered_model("sk")
    client.create_model_version("sk", str(folder))
    assert "flavors: sklearn" in refusal("models:/sk/1", tmp_path / "pins", registry.uri).what


def test_unknown_name(registry, make_model, tmp_path):
    registry.register(make_model(), name="flights")
    registry.register(make_model(), name="weather")
    error = refusal("models:/flight/1", tmp_path, registry.uri)
    assert "has no registered model 'flight'" in error.what
    assert error.remedy == "It has: flights, weather. Did you mean 'flights'?"


def test_unknown_name_by_alias(registry, tmp_path):
    error = refusal("models:/flights@champion", tmp_path, registry.uri)
    assert "has no registered model 'flights'" in error.what
    assert error.remedy == "It is empty; register a model first."


def test_unknown_alias(registry, make_model, tmp_path):
    registry.register(make_model(), alias="champion")
    error = refusal("models:/flights@champoin", tmp_path, registry.uri)
    assert error.what == "flights has no alias 'champoin' (champion → 1)"
    assert "did you mean 'champion'?" in error.remedy


def test_a_model_without_aliases(registry, make_model, tmp_path):
    registry.register(make_model())
    error = refusal("models:/flights@champion", tmp_path, registry.uri)
    assert error.what == "flights has no aliases"


def test_unknown_version(registry, make_model, tmp_path):
    registry.register(make_model())
    registry.register(make_model("v2.onnx", scale=3.0))
    error = refusal("models:/flights/7", tmp_path, registry.uri)
    assert (error.what, error.remedy) == ("flights has no version 7", "Versions: 1, 2.")


def test_the_environment_names_the_registry(registry, make_model, tmp_path, monkeypatch):
    registry.register(make_model())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    assert pin("models:/flights/1", tmp_path / "pins").version == "1"


def test_a_registry_here_is_found(registry, make_model, tmp_path, monkeypatch):
    registry.register(make_model())
    (registry.folder / "registry.db").rename(tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert pin("models:/flights/1", tmp_path / "registry" / "pins").version == "1"
    assert sorted(tmp_path.iterdir()) == before


def test_no_registry_at_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = refusal("models:/flights/1", tmp_path / "pins", None)
    assert "MLFLOW_TRACKING_URI" in error.remedy
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_is_not_there_is_not_made(tmp_path):
    error = refusal("models:/flights/1", tmp_path / "pins", f"sqlite:///{tmp_path}/typo.db")
    assert "there is no database" in error.what
    assert not (tmp_path / "typo.db").exists()


def test_a_database_of_something_else(tmp_path):
    database = tmp_path / "other.db"
    with sqlite3.connect(database) as opened:
        opened.execute("CREATE TABLE birds (name TEXT)")
    error = refusal("models:/flights/1", tmp_path / "pins", f"sqlite:///{database}")
    assert "no MLflow database" in error.what


def test_a_database_of_another_mlflow_is_not_migrated(registry, tmp_path):
    database = registry.folder / "registry.db"
    with sqlite3.connect(database) as opened:
        opened.execute("UPDATE alembic_version SET version_num = 'old'")
    before = database.read_bytes()
    error = refusal("models:/flights/1", tmp_path / "pins", registry.uri)
    assert "its schema is old" in error.what
    assert "mlflow db upgrade" in error.remedy
    assert database.read_bytes() == before


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_server_that_is_not_there_and_its_password_stays_private(tmp_path, scheme):
    with reserved() as port:
        uri = f"{scheme}://gate:s3cret@127.0.0.1:{port}"
        error = refusal("models:/flights/1", tmp_path, uri)
    assert f"nothing answers at 127.0.0.1 port {port}" in error.what
    assert "s3cret" not in str(error)


def test_a_server_that_never_answers_is_given_up(tmp_path, monkeypatch):
    """It accepts connections and stays silent; the product's limits are tightened to test quickly."""
    # What importing takes is not the server's.
    import mlflow.tracking  # noqa: F401

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://gate:s3cret@127.0.0.1:{silent.getsockname()[1]}"
        started = time.perf_counter()
        error = refusal("models:/flights@champion", tmp_path, uri)
        # MLflow's own limits add up to minutes.
        assert time.perf_counter() - started < 60
        # One connection to see that it is there, one to ask; the system holds both.
        with silent.accept()[0], silent.accept()[0]:
            silent.setblocking(False)
            with pytest.raises(BlockingIOError):
                silent.accept()
    assert "did not answer in time" in error.what
    assert "s3cret" not in str(error)


def test_mlflow_stays_off_the_terminal(registry, make_model, tmp_path, capfd):
    from harness.pipeline.registry import create_database

    create_database(f"sqlite:///{tmp_path}/fresh.db")
    registry.register(make_model(), alias="champion")
    pin("models:/flights@champion", tmp_path / "pins", registry_uri=registry.uri)
    refusal("models:/flights@nobody", tmp_path / "pins", registry.uri)
    assert tuple(capfd.readouterr()) == ("", "")
