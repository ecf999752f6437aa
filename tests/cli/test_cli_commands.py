"""The command line itself: help, cheap start, exit codes of internal errors, JSON, pinned API."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from gates import FLIGHTS, ROOT

import harness as package
from harness.cli import entry

HARNESS = Path(sys.executable).with_name("harness")
HEAVY = ("grpc", "jinja2", "mlflow", "numpy", "onnx", "onnxruntime", "pandas", "pyarrow", "scipy",
         "statsmodels", "tqdm", "yaml")  # fmt: skip


def commands(group=entry.cli, path=()):
    """Every command and subcommand: (words, command)."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = {" ".join(path): command for path, command in commands()}


def test_the_package_runs_as_a_module():
    ran = subprocess.run(
        [sys.executable, "-m", "harness", "--help"], capture_output=True, text=True, check=True
    )
    assert ran.stdout.startswith("Usage: harness ")


@pytest.mark.parametrize("words", sorted(ALL))
def test_every_command_has_help_with_an_example(words, harness):
    command = ALL[words]
    ran = harness(*words.split(), "--help")
    assert ran.code == 0
    assert command.short_help
    assert command.help
    if not isinstance(command, click.Group):
        assert "Example:" in ran.out
        assert command.epilog.startswith(f"Example: harness {words}")
        for path in re.findall(r"(?:scenarios|models)/[\w./-]+", command.epilog):
            assert (ROOT / path).exists()


@pytest.mark.parametrize(
    "words", sorted(w for w, c in ALL.items() if not isinstance(c, click.Group))
)
def test_every_option_has_help(words):
    for parameter in ALL[words].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def test_the_readme_lists_every_command():
    readme = (ROOT / "README.md").read_text()
    table = readme.split("## Commands", 1)[1].split("## ", 1)[0]
    listed = {m.strip() for m in re.findall(r"`harness ([a-z]+(?: [a-z]+)?)", table)}
    leaves = {w for w, c in ALL.items() if not isinstance(c, click.Group)}
    assert listed == leaves


def test_help_imports_nothing_heavy():
    script = f"""
import sys
from harness.cli.entry import run
assert run(["--help"]) == 0
print(*sorted({set(HEAVY)!r} & sys.modules.keys()), file=sys.stderr)
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert ran.stderr.split() == []


@pytest.mark.parametrize(("wish", "pool"), [(None, "system"), ("mimalloc", "mimalloc")])
def test_the_program_keeps_no_memory_for_later_unless_told_to(wish, pool):
    script = """
import sys
from harness.cli.entry import main
sys.argv = ["harness", "--version"]
try:
    main()
except SystemExit as ended:
    assert not ended.code
import pyarrow
print(pyarrow.default_memory_pool().backend_name)
"""
    own = {k: v for k, v in os.environ.items() if k != "ARROW_DEFAULT_MEMORY_POOL"}
    wished = {"ARROW_DEFAULT_MEMORY_POOL": wish} if wish else {}
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT,
        env=own | wished,
    )  # fmt: skip
    assert ran.stdout.split()[-1] == pool


def test_the_package_itself_imports_nothing_heavy():
    script = f"import sys, harness; print(*sorted({set(HEAVY)!r} & sys.modules.keys()))"
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert ran.stdout.split() == []


def test_the_public_api_is_pinned():
    assert sorted(package.__all__) == [
        "compare_models", "import_labels", "import_traffic", "judge_table", "label_delays", "make_golden", "plan",
        "record_traffic", "resume_gate", "run_gate", "run_scenarios", "serve_canary", "serve_shadow",
    ]  # fmt: skip
    assert all(callable(getattr(package, name)) for name in package.__all__)
    with pytest.raises(AttributeError, match="judge_everything"):
        _ = package.judge_everything


@pytest.mark.parametrize(
    "error", [RuntimeError("broken"), MemoryError(), AssertionError(), OSError(28, "disk full")]
)
def test_an_internal_error_exits_4_and_keeps_the_traceback(error, harness, monkeypatch, tmp_path):
    def broken(*_, **__):
        raise error

    monkeypatch.setattr("harness.pipeline.traffic.show_traffic", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ran = harness("traffic", "show", FLIGHTS)
    assert ran.code == 4
    assert "the gate itself failed" in ran.err
    kept = Path(re.search(r"traceback is in (\S+);", ran.err)[1])
    assert "Traceback" in kept.read_text()


def test_an_internal_error_is_told_where_no_file_can_be_made(capfd, monkeypatch):
    def broken(*_, **__):
        raise OSError(28, "disk full")

    monkeypatch.setattr("harness.pipeline.traffic.show_traffic", broken)
    monkeypatch.setattr("tempfile.mkstemp", broken)
    assert entry.run(["traffic", "show", str(FLIGHTS)]) == 4
    said = capfd.readouterr().err
    assert "Traceback" in said
    assert "The traceback is above" in said


@pytest.mark.parametrize("error", [SystemExit(1), SystemExit("words"), GeneratorExit()])
def test_not_even_an_exit_inside_is_taken_for_a_verdict(error, harness, monkeypatch):
    def leaving(*_, **__):
        raise error

    monkeypatch.setattr("harness.pipeline.traffic.show_traffic", leaving)
    assert harness("traffic", "show", FLIGHTS).code == 4


def test_ctrl_c_exits_4(harness, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.pipeline.traffic.show_traffic", stopped)
    ran = harness("traffic", "show", FLIGHTS)
    assert ran.code == 4
    assert "interrupted" in ran.err


def test_a_package_that_cannot_be_imported_exits_4(tmp_path):
    (tmp_path / "pyarrow.py").write_text("raise RuntimeError('broken')")
    ran = subprocess.run(
        [sys.executable, "-c", "from harness.cli import main; main()", "traffic", "show", FLIGHTS],
        capture_output=True, text=True, check=False, cwd=ROOT,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert ran.returncode == 4
    assert "Traceback" not in ran.stderr


@pytest.fixture
def no_reader():
    """A pipe whose reader has gone before anything is written."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def test_a_reader_that_goes_away_is_no_traceback(no_reader):
    ran = subprocess.run(
        [HARNESS, "scenario", "list", "--json"], stdout=no_reader, stderr=subprocess.PIPE,
        cwd=ROOT, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (4, b"")


@pytest.mark.parametrize(
    ("words", "code"), [(["report", "nowhere"], 2), (["gaet"], 2), (["scenario", "list"], 4)]
)
def test_messages_that_nobody_reads_do_not_change_the_exit_code(words, code, no_reader):
    ran = subprocess.run(
        [HARNESS, *words], stdout=no_reader, stderr=subprocess.STDOUT, cwd=ROOT, check=False
    )
    assert ran.returncode == code


@pytest.mark.parametrize("words", [["traffic", "show", FLIGHTS], ["doctor"], ["scenario", "list"]])
def test_json_can_be_read(words, harness):
    ran = harness(*words, "--json")
    assert ran.code in {0, 3}
    assert json.loads(ran.out)


def test_seal_says_the_hash_that_show_says(harness, some_flights, tmp_path):
    sealed = json.loads(
        harness("traffic", "seal", some_flights, "--out", tmp_path / "w", "--json").out
    )
    shown = json.loads(harness("traffic", "show", tmp_path / "w", "--json").out)
    assert shown["sealed"]
    assert shown["summary"]["window_hash"] == sealed["info"]["window_hash"]
    assert sealed["info"]["count"] == shown["summary"]["count"] > 3000
    assert sealed["info"]["window_hash"] in harness("traffic", "show", tmp_path / "w").out


def test_show_counts_what_was_recorded(harness):
    told = json.loads(harness("traffic", "show", FLIGHTS, "--json").out)["summary"]
    assert (told["count"], told["labelled"], told["labels_unknown"]) == (57607, 56323, 0)
    assert "57,607 exchanges" in harness("traffic", "show", FLIGHTS).out


def test_the_version_is_told(harness):
    ran = harness("--version")
    assert ran.code == 0
    assert re.search(r"\d+\.\d+", ran.out)
