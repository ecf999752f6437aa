"""What tests of whole gates share: a small part of the real traffic, a registry, tiny models, the command.

Sealed windows, the small traffic and the registry are made once per test run, under a lock, so that
the processes of pytest-xdist share them. Nothing of it is written to afterwards.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FLIGHTS = ROOT / "scenarios" / "traffic" / "flights"
MODELS = ROOT / "models" / "flights"
AS_OF = "2013-11-01T00:00:00Z"
FEW_ALONE = 64
"""Requests that a gate of a test runs alone, where the sample's size is not what the test is about."""
EVERY = 16
"""One exchange in so many is in the small traffic."""
VERSIONS = ("v1", "v2", "utc_hour", "other_signature", "broken")
"""In the registry as versions 1, 2 …; v1 is the champion, v2 the challenger."""
TINY_START_NS = 1_600_000_000_000_000_000

Policy = Callable[..., Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One command line that ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Ran]


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this test run have in common."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


@pytest.fixture(scope="session", autouse=True)
def _asked_alone() -> Iterator[int]:
    """Half the time of a gate of the small traffic would go into requests that run alone."""
    from harness.pipeline import alone

    of_the_product = alone.WANTED
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alone, "WANTED", FEW_ALONE)
        yield of_the_product


@pytest.fixture
def as_many_alone(_asked_alone: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many requests run alone as in the product."""
    from harness.pipeline import alone

    monkeypatch.setattr(alone, "WANTED", _asked_alone)


@pytest.fixture(scope="session")
def windows(shared_folder: Path) -> Path:
    """Cache of sealed windows; its own locks let several processes use it."""
    folder = shared_folder / "windows"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def some_flights(shared_folder: Path) -> Path:
    """Every 16th recorded flight (3,601) with its labels, as a traffic folder."""
    from harness.store.traffic import TrafficSource, TrafficWriter

    folder = shared_folder / "some-flights"
    with once(folder) as missing:
        if missing:
            chosen = list(islice(TrafficSource.open([FLIGHTS]).exchanges(), 0, None, EVERY))
            with TrafficWriter(folder) as writer:
                writer.write(chosen)
            copy_labels(folder, {e.request_id for e in chosen})
    return folder


def copy_labels(folder: Path, request_ids: set[str]) -> Path:
    """Writes the flights' labels of these requests into a traffic folder; returns the file."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    labels = pq.read_table(FLIGHTS / "labels")
    mine = labels.filter(pc.is_in(labels["request_id"], pa.array(sorted(request_ids))))
    file = folder / "labels" / "all.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(mine, file)
    return file


@pytest.fixture(scope="session")
def flights_registry(shared_folder: Path, registry_template: Path) -> str:
    """URI of a registry with VERSIONS of the flight model; tests only read it."""
    import shutil

    from harness.pipeline.registry import register

    folder = shared_folder / "flights-registry"
    uri = f"sqlite:///{folder / 'registry.db'}"
    about = yaml.safe_load((MODELS / "models.yaml").read_text())["versions"]
    cutoffs = {v["name"]: v["training_cutoff"] for v in about}
    with once(folder) as missing:
        if missing:
            folder.mkdir()
            shutil.copyfile(registry_template, folder / "registry.db")
            for number, name in enumerate(VERSIONS, start=1):
                version = register(
                    MODELS / f"{name}.onnx", name="flights", registry_uri=uri,
                    alias={"v1": "champion", "v2": "challenger"}.get(name),
                    training_cutoff=cutoffs[name],
                )  # fmt: skip
                assert version == str(number)
    return uri


@contextmanager
def once(target: Path) -> Iterator[bool]:
    """Holds a lock beside the target and says whether it still has to be made."""
    with target.with_name(f"{target.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield not target.exists()


RETRAIN: dict[str, Any] = {
    "version": 1,
    "preset": "retrain",
    "decision": {"output": "label", "rule": "none", "score": "probability"},
    "windows": {
        "newest": {"days": 200},
        "matured": {"maturity": "61d"},
        "min_requests": 500,
        "cover": ["origin"],
    },
    "guardrails": [
        {"name": "features", "metric": "parity_mismatch", "scope": "features", "margin": 0.01},
        {"name": "loss", "metric": "loss_difference", "loss": "brier", "margin": 0.02,
         "window": "matured"},
    ],
    "sandbox": {"memory": "2GiB"},
    "graph": {"when": "never"},
}  # fmt: skip
"""A retrain judged with margins that the small traffic can prove."""

REFACTOR: dict[str, Any] = {
    "version": 1,
    "preset": "refactor",
    "decision": {"output": "label", "rule": "none", "score": "probability"},
    "windows": {"newest": {"days": 200}, "min_requests": 300},
    "guardrails": [
        {"name": "outputs", "metric": "parity_mismatch", "scope": "outputs", "margin": 0.05},
        {"name": "features", "metric": "parity_mismatch", "scope": "features", "margin": 0.05},
    ],
    "sandbox": {"memory": "2GiB"},
    "graph": {"when": "never"},
}  # fmt: skip
"""Parity with margins that a few hundred requests can prove."""


@pytest.fixture
def write_policy(tmp_path: Path) -> Policy:
    """Writes a policy file: `write_policy(base, key=value, …)`; `windows` is merged into the base's."""

    def write(base: dict[str, Any], name: str = "policy.yaml", **changes: Any) -> Path:
        content = {**base, **changes}
        if "windows" in changes:
            content["windows"] = {**base["windows"], **changes["windows"]}
        path = tmp_path / name
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


@pytest.fixture
def harness(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    windows: Path,
    tmp_path: Path,
) -> Command:
    """Runs one command line in this process, in a folder of the test's own.

    A traceback on the terminal fails the test, whatever else it looks for.
    """
    from harness.cli.entry import run

    monkeypatch.setenv("HARNESS_CACHE_DIR", str(windows))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def command(*words: object) -> Ran:
        capfd.readouterr()
        code = run([str(w) for w in words])
        seen = capfd.readouterr()
        assert "Traceback" not in seen.out + seen.err
        return Ran(code=code, out=seen.out, err=seen.err)

    return command


TINY = """
<ir_version: 8, opset_import: ["" : 15]>
tiny (float[N] {x}) => (float[N] probability, int64[N] label) {{
  doubled = Add({x}, {x})
  raised = {raised}
  probability = Sigmoid(raised)
  half = Constant<value = float {{0.5}}>()
  yes = GreaterOrEqual(probability, half)
  label = Cast<to = 7>(yes)
}}
"""
SAME = "Identity({x})"
PLAIN = ("compare", "--graph-requests", 0)
"""`harness compare` without a look into the graphs, for tests that are not about it."""


def tiny_model(
    path: Path, *, raised: str = SAME, x: str = "x", cutoff: str | None = "2020-01-01T00:00:00Z"
) -> Path:
    """Writes p = sigmoid(raised), label = p ≥ ½, with the feature doubled = 2 x.

    Args:
      path: where to.
      raised: an expression of x in ONNX's text form.
      x: the input's name.
      cutoff: the training cut-off that its metadata declares; None for none.
    """
    import onnx
    from onnx import parser

    model = parser.parse_model(TINY.format(x=x, raised=raised.format(x=x)))
    declared = {"harness.features": '["doubled"]'}
    if cutoff is not None:
        declared["harness.training_cutoff"] = cutoff
    onnx.helper.set_model_props(model, declared)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save_model(model, str(path))
    return path


def reaching(path: Path, location: str) -> None:
    """Gives a tiny model a constant that lies elsewhere, and an output that shows it."""
    import onnx

    model = onnx.load(str(path))
    weights = onnx.helper.make_tensor("outside", onnx.TensorProto.FLOAT, [4], [0.0] * 4)
    weights.ClearField("float_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": "16"}.items():
        weights.external_data.add(key=key, value=value)
    model.graph.initializer.append(weights)
    model.graph.node.append(onnx.helper.make_node("ReduceSum", ["outside"], ["leak"], keepdims=0))
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("leak", onnx.TensorProto.FLOAT, [])
    )
    path.write_bytes(model.SerializeToString())


def tiny_traffic(
    folder: Path,
    n: int = 600,
    *,
    labels: bool = False,
    name: str = "x",
    values: Sequence[float] | None = None,
    users: Sequence[str] | None = None,
    later_s: int = 0,
    without_rows: Collection[int] = (),
) -> Path:
    """Writes n recorded requests of the tiny model, one a second, x drawn from a normal.

    Args:
      folder: traffic folder to make.
      n: requests; ids are t-0, t-1 …
      labels: whether each has a label (1 when x > 0), known a minute after the request.
      name: the input's name.
      values: the x; None draws them.
      users: the context column `user`; None = it is not recorded.
      later_s: by which all arrive later.
      without_rows: which requests ask for nothing.
    """
    import numpy as np

    from harness.core.traffic import Exchange
    from harness.store.label_rows import write_labels
    from harness.store.traffic import TrafficWriter
    from harness.wire import MODEL_INFER
    from harness.wire.messages import request_bytes, response_bytes

    x = np.random.default_rng(7).normal(size=n) if values is None else np.array(values)
    x = x.astype(np.float32)
    p = (1 / (1 + np.exp(-x))).astype(np.float32)
    ids = [f"t-{i}" for i in range(len(x))]
    taken = [slice(i, i + (i not in without_rows)) for i in range(len(x))]
    ts = TINY_START_NS + (later_s + np.arange(len(x))) * 1_000_000_000
    with TrafficWriter(folder) as writer:
        writer.write(
            Exchange(
                ts_ns=int(ts[i]), latency_ns=1000, code=0, method=MODEL_INFER, model="tiny",
                version="1", request_id=ids[i],
                request=request_bytes("tiny", {name: x[taken[i]]}, ids[i]),
                response=response_bytes(
                    "tiny", "1",
                    {"probability": p[taken[i]], "label": (p[taken[i]] >= 0.5).astype(np.int64)},
                    ids[i],
                ),
                context={"site": "ab"[i % 2], **({} if users is None else {"user": users[i]})},
            )
            for i in range(len(x))
        )  # fmt: skip
    if labels:
        write_labels(
            folder / "labels" / "all.parquet",
            request_id=np.array(ids, object), label=(x > 0).astype(np.float64), event_ts_ns=ts,
            label_event_ts_ns=ts, ingestion_ts_ns=ts + 60_000_000_000,
        )  # fmt: skip
    return folder
