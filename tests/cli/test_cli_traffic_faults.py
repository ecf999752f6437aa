"""What a user's mistake or a full disk costs `harness traffic` and `harness labels`: exit 2, with where, what and remedy."""

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import emulation
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gates import tiny_traffic

from harness.cli.entry import run
from harness.core.jsonable import sha256
from harness.store.exchanges import SCHEMA
from harness.store.traffic import TrafficSource
from harness.store.windows import seal

ROWS = "request_id,label,event_ts_ns,label_event_ts_ns,ingestion_ts_ns\nr0,1,1,2,3\n"
MAPPING = "version: 1\nrequest_id: id\ntime: {column: at, unit: ms}\nmodel: m\ninputs: [{name: x, datatype: FP32}]\n"


def traffic(folder):
    return tiny_traffic(folder, 3, labels=True)


def window(folder):
    seal(TrafficSource.open([traffic(folder / "of")]), folder / "w", seed=1).close()
    return folder / "w"


def other_format(path):
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"format_version": 1}))
    return path


def half(t):
    (file,) = t.glob("part*")
    file.write_bytes(file.read_bytes()[:200])


def foreign(t):
    pq.write_table(pa.table({"a": [1]}), t / "x.parquet")


def bad_name(t):
    shutil.copy(next(t.glob("part*")), os.fsencode(str(t)) + b"/\xff.parquet")


def label_text(t):
    columns = {"request_id": ["r0"], "label": ["yes"], "ingestion_ts_ns": [1]}
    pq.write_table(pa.table(columns), t / "labels" / "m.parquet")


def no_text(n):
    """A column of n ids that are no UTF-8; pyarrow's own constructors make none."""
    ends = pa.py_buffer(bytes(pa.array(range(n + 1), pa.int32()).buffers()[1]))
    return pa.StringArray.from_buffers(n, ends, pa.py_buffer(b"\xff" * n))


def footer_of_no_text(t):
    """A column's name in the footer is no UTF-8."""
    (file,) = t.glob("part*")
    content = file.read_bytes()
    at = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    file.write_bytes(content[:at] + content[at:].replace(b"trace_id", b"trace_\x8dd"))


def totals(content):
    return lambda t: (t / "r.totals.json").write_text(content)


_TOTALS = {"writer": "r", "seen": 1, "failed": 0, "sampled_out": 0, "kept_as_failed": 0, "written": 1, "waiting": 0,
           "not_recorded": [], "faults": [], "sample": 1.0, "closed": True}  # fmt: skip
FAULTS = {
    "half a file": (half, "cannot be read as Parquet"),
    "foreign file": (foreign, "no column 'ts_ns'"),
    "link in a circle": (lambda t: (t / "x.parquet").symlink_to("x.parquet"), "Too many levels of symbolic links"),
    "link to nothing": (lambda t: (t / "x.parquet").symlink_to("gone"), "No such file or directory"),
    "pipe": (lambda t: os.mkfifo(t / "x.parquet"), "is a pipe, a socket or a device"),
    "name of no text": (bad_name, "has no UTF-8 form"),
}  # fmt: skip
READ_WHOLE = {
    "footer of no text": (footer_of_no_text, "part-00000.parquet: cannot be read as Parquet"),
    "totals of no end": (totals("[" * 100_000), "r.totals.json: is no recorder's totals"),
    "totals without bounds": (totals(json.dumps(_TOTALS | {"seen": 1e999})), "r.totals.json: is no recorder's totals"),
}  # fmt: skip
COMMANDS = {
    "show": lambda t: ["traffic", "show", t],
    "seal": lambda t: ["traffic", "seal", t, "-q", "--out", t.parent / "out"],
    "delay": lambda t: ["labels", "delay", t],
    "labels": lambda t: ["labels", "import", labels_in(t.parent), "--to", t],
}


def labels_in(folder):
    (folder / "l.csv").write_text(ROWS)
    return folder / "l.csv"


def refused(words, capsys):
    """What the command says when it ends with 2."""
    code = run([str(word) for word in words])
    said = capsys.readouterr().err
    assert (code, "Traceback" in said, said.count("\n")) == (2, False, 2), said
    return said


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_traffic_is_named(command, fault, tmp_path, capsys):
    make, says = FAULTS[fault]
    make(traffic(tmp_path / "t"))
    assert says in refused(COMMANDS[command](tmp_path / "t"), capsys)


@pytest.mark.parametrize("command", ["show", "seal"])
@pytest.mark.parametrize("fault", READ_WHOLE)
def test_a_fault_of_what_is_read_beside_the_requests_is_named(command, fault, tmp_path, capsys):
    make, says = READ_WHOLE[fault]
    make(traffic(tmp_path / "t"))
    assert says in refused(COMMANDS[command](tmp_path / "t"), capsys)


@pytest.mark.parametrize("hour", ["-1", "24", "99"])
def test_folders_of_no_hour_say_nothing(hour, tmp_path, capsys):
    folder = tmp_path / "t" / "date=2024-01-01" / f"hour={hour}"
    shutil.copytree(tiny_traffic(tmp_path / "of", 3), folder)
    since = ["--since", "1970-01-01T00:00:00Z"]
    assert run(["traffic", "show", str(tmp_path / "t"), *since]) == 0
    assert "3 " in capsys.readouterr().out


@pytest.mark.parametrize("command", ["show", "delay"])
def test_labels_of_ids_that_are_no_text_are_named(command, tmp_path, capsys):
    columns = {"request_id": no_text(1), "label": [1.0], "ingestion_ts_ns": [1]}
    pq.write_table(pa.table(columns), traffic(tmp_path / "t") / "labels" / "m.parquet")
    said = refused(COMMANDS[command](tmp_path / "t"), capsys)
    assert "m.parquet: column 'request_id' holds what is no UTF-8 text" in said


@pytest.mark.parametrize("change", [{"info": {}}, {"files": None}, {"info": []}])
def test_a_manifest_that_says_nothing_is_named(change, tmp_path, capsys):
    path = window(tmp_path) / "manifest.json"
    said = json.loads(path.read_text()) | change
    del said["manifest_sha256"]
    path.write_text(json.dumps(said | {"manifest_sha256": sha256(said)}))
    assert "manifest.json: does not say what" in refused(["traffic", "show", path.parent], capsys)


@pytest.mark.parametrize("command", ["show", "seal"])
def test_names_of_no_text_are_refused(command, tmp_path, capsys):
    words = [*COMMANDS[command](traffic(tmp_path / "t")), "--model", "x\udcff"]
    assert "--model x\\udcff: has no UTF-8 form" in refused(words, capsys)


def test_a_window_s_place_of_no_text_is_refused(tmp_path, capsys):
    words = ["traffic", "seal", traffic(tmp_path / "t"), "-q", "--out", tmp_path / "\udcff"]
    assert "has no UTF-8 form" in refused(words, capsys)


@pytest.mark.parametrize("command", ["seal", "delay", "labels"])
def test_a_window_is_no_traffic(command, tmp_path, capsys):
    said = refused(COMMANDS[command](window(tmp_path)), capsys)
    assert "is a sealed window and no recorded traffic" in said


def test_a_window_of_another_format_version_is_to_be_sealed_again(tmp_path, capsys):
    said = refused(["traffic", "show", other_format(window(tmp_path))], capsys)
    assert "window format 1" in said
    assert "Seal the recorded traffic again" in said


def test_a_label_column_of_another_type_is_named(tmp_path, capsys):
    label_text(traffic(tmp_path / "t"))
    said = refused(["labels", "delay", tmp_path / "t"], capsys)
    assert "m.parquet: column 'label' holds string where label files hold double" in said


def test_delays_of_no_request_are_refused(tmp_path, capsys):
    pq.write_table(SCHEMA.empty_table(), tmp_path / "x.parquet")
    assert "no request in it" in refused(["labels", "delay", tmp_path], capsys)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--model", "other"], "no exchange in it is of the model and the time asked for"),
        (["--since", "2200-01-01T00:00:00Z"], "no exchange in it is of the model and the time"),
    ],
)
def test_a_window_of_nothing_is_not_made(more, says, tmp_path, capsys):
    words = ["traffic", "seal", traffic(tmp_path / "t"), "-q", "--out", tmp_path / "w", *more]
    assert says in refused(words, capsys)
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda o: o.symlink_to(o.name), "is a link that leads nowhere"),
        (lambda o: o.write_text(""), "is no folder"),
        (lambda o: (o / "x").mkdir(parents=True), "already exists"),
    ],
)
def test_a_place_for_a_window_that_is_none_is_named(make, says, tmp_path, capsys):
    make(tmp_path / "w")
    words = ["traffic", "seal", traffic(tmp_path / "t"), "-q", "--out", tmp_path / "w"]
    assert says in refused(words, capsys)


def test_a_window_lies_on_this_machine(tmp_path, capsys):
    words = ["traffic", "seal", traffic(tmp_path / "t"), "-q", "--out", "s3://bucket/w"]
    assert "lies in an object store" in refused(words, capsys)


@contextlib.contextmanager
def files_of_at_most(size_bytes):
    """A disk on which files can grow no longer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("command", ["seal", "delay"])
def test_a_full_disk_is_named_and_nothing_is_left(command, tmp_path, capsys):
    t = traffic(tmp_path / "t")
    out = tmp_path / "full"
    out.mkdir()
    words = {
        "seal": ["traffic", "seal", t, "-q", "--out", out / "w"],
        "delay": ["labels", "delay", t, "--svg", out / "x.svg"],
    }
    with files_of_at_most(100):
        said = refused(words[command], capsys)
    assert "cannot be written" in said
    assert "File too large" in said
    assert list(out.iterdir()) == []


def importing(folder, source=None, to=None):
    (folder / "m.yaml").write_text(MAPPING)
    (folder / "t.jsonl").write_text('{"id": "a", "at": 1, "x": 1.5}\n')
    return ["traffic", "import", "table", source or folder / "t.jsonl", "-q",
            "--to", to or folder / "to", "--mapping", folder / "m.yaml"]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda s: (s / "y.jsonl").symlink_to("y.jsonl"), "Too many levels of symbolic links"),
        (lambda s: (s / "y.jsonl").symlink_to("gone"), "No such file or directory"),
        (lambda s: os.mkfifo(s / "y.csv"), "is a pipe, a socket or a device"),
        (lambda s: (s / "y.jsonl").write_text(""), "no record in it"),
        (lambda s: (s / "y.txt").touch(), "no file that ends in"),
    ],
)
def test_a_fault_of_logs_is_named(make, says, tmp_path, capsys):
    (tmp_path / "logs").mkdir()
    make(tmp_path / "logs")
    assert says in refused(importing(tmp_path, tmp_path / "logs"), capsys)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda to: to.write_text(""), "Not a directory.\n  Give access there, or name another folder"),
        (lambda to: to.symlink_to(to.name), "Too many levels of symbolic links"),
        (lambda to: window(to.parent).rename(to), "is a sealed window"),
    ],
)  # fmt: skip
def test_a_place_for_traffic_that_is_none_is_named(make, says, tmp_path, capsys):
    make(tmp_path / "to")
    assert says in refused(importing(tmp_path), capsys)


@pytest.mark.parametrize(
    ("make", "says"),
    [(os.mkfifo, "is a pipe"), (lambda m: m.mkdir(), "is a folder"), (lambda m: m.touch(), "is empty")],
)  # fmt: skip
def test_a_mapping_that_is_no_file_is_named(make, says, tmp_path, capsys):
    words = importing(tmp_path)
    make(tmp_path / "n")
    assert says in refused([*words[:-1], tmp_path / "n"], capsys)


@pytest.mark.parametrize(("command", "part"), [("show", ""), ("seal", "sub"), ("delay", "labels")])
def test_a_folder_without_a_right_to_it_is_no_empty_one(command, part):
    with tempfile.TemporaryDirectory(
        dir="/tmp"
    ) as scratch:  # others may enter it, unlike pytest's own
        Path(scratch).chmod(0o777)
        t = traffic(Path(scratch) / "t")
        (t / "sub").mkdir()
        (t / part).chmod(0)
        words = [*emulation.command("user"), sys.executable, "-m", "harness", *COMMANDS[command](t)]
        ran = subprocess.run(
            words, capture_output=True, text=True, check=False, cwd="/",
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
    assert ran.returncode == 2, ran.stderr
    assert f"{t / part}: cannot be read: Permission denied" in ran.stderr
