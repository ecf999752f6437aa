"""Environments of single versions: built once, reused without a network, refused with a remedy.

One real environment is built here for all tests; what must fail is kept from the network by uv's own
settings.
"""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from harness.core.errors import EnvironmentUnavailableError, UsageError
from harness.core.policies import SandboxPolicy
from harness.sandbox import installing
from harness.sandbox.environments import (
    cached_environments,
    environment_for,
    environment_path,
)
from harness.sandbox.graphs import Look, look
from harness.sandbox.hello import LoadFailure
from harness.sandbox.process import Sandbox

LIMITS = SandboxPolicy(require="S0", memory_bytes=4 << 30)
PINS = ("onnxruntime==1.26.0", "numpy==2.4.6")
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
NOWHERE = "http://127.0.0.1:9/simple"
BUILD = """
import sys
from pathlib import Path
from harness.sandbox.environments import environment_for
built = []
environment_for(sys.argv[2:], Path(sys.argv[1]), where="m", building=lambda: built.append(1))
print(len(built))
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache that two processes filled at the same time."""
    folder = tmp_path_factory.mktemp("environments")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BUILD, str(folder), *PINS], stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    ended = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    return folder


@pytest.fixture
def copied(cache, tmp_path):
    """The same environment, to be damaged anywhere but in its shared libraries, which are most of it."""
    name = environment_path(cache, PINS, RUNNING).name
    shutil.copytree(cache / name, tmp_path / name, symlinks=True, copy_function=_linked_library)
    yield tmp_path
    shutil.rmtree(tmp_path / name)  # so that the libraries are no other folder's again


def _linked_library(source, target):
    if ".so" in Path(source).name:
        os.link(source, target)
    else:
        shutil.copy2(source, target)


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    monkeypatch.setenv("UV_DEFAULT_INDEX", NOWHERE)
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))


def refused(requirements, cache, **options):
    with pytest.raises(EnvironmentUnavailableError) as caught:
        environment_for(requirements, cache, where="models:/m/2", **options)
    assert caught.value.where == "models:/m/2"
    return caught.value


def answer(model, python):
    started = Sandbox.start(model, name="test", limits=LIMITS, python=python, allow_weaker=True)
    assert not isinstance(started, LoadFailure), started
    with started as sandbox:
        sandbox.submit({"x": np.full((2, 1024), 1.5, np.float32)}, 2, trace=False)
        return sandbox.versions, sandbox.collect().outputs["y"]


def test_two_builders_leave_one_whole_environment(cache):
    assert [e.packages for e in cached_environments(cache)] == [
        (("numpy", "2.4.6"), ("onnxruntime", "1.26.0"))
    ]
    assert not list(cache.glob(".building-*"))


def test_the_worker_serves_in_it(cache, make_model, no_network):
    environment = environment_for(PINS, cache, where="m")
    versions, y = answer(make_model(), environment.interpreter)
    assert (versions["onnxruntime"], versions["numpy"]) == ("1.26.0", "2.4.6")
    assert (y == 3.0).all()


def test_what_is_there_is_used_without_building(cache, no_network):
    said = []
    environment_for(PINS[::-1], cache, where="m", building=lambda: said.append("building"))
    assert said == []


def test_the_key_tells_pythons_and_requirements_apart(tmp_path):
    paths = {
        environment_path(tmp_path, PINS, "3.11"),
        environment_path(tmp_path, PINS, "3.12"),
        environment_path(tmp_path, ("onnxruntime==1.25.1", PINS[1]), "3.11"),
    }
    assert len(paths) == 3


def test_only_the_named_packages_are_installed(cache):
    site = next(cache.glob("*/lib/*/site-packages"))
    assert {p.name for p in site.glob("*.dist-info")} == {
        "numpy-2.4.6.dist-info",
        "onnxruntime-1.26.0.dist-info",
    }


def test_no_file_of_it_is_also_elsewhere(cache):
    # What damages uv's cache or another environment must not damage this one, nor the other way.
    (home,) = (path for path in cache.iterdir() if path.is_dir())
    files = [path for path in home.rglob("*") if path.is_file() and not path.is_symlink()]
    assert {path.stat().st_nlink for path in files} == {1}


def test_byte_code_is_there_from_the_start(cache):
    package = next(cache.glob("*/lib/*/site-packages/onnxruntime"))
    assert list(package.glob("__pycache__/__init__.*.pyc"))


def rewritten(path, change):
    """Written in place, as damage comes; the environments here are copies of the one that was built."""
    path.write_bytes(change(path.read_bytes()))


def relinked(path, target):
    path.unlink()
    path.symlink_to(target)


DAMAGES = {
    "a file is gone": lambda home: module(home).unlink(),
    "a file is longer": lambda home: rewritten(module(home), lambda data: data + b"\n"),
    "a file was added": lambda home: module(home).with_name("more.py").write_text(""),
    "a file is zeros": lambda home: rewritten(module(home), lambda data: bytes(len(data))),
    "a script was added": lambda home: (home / "bin" / "tool").write_text(""),
    "it is described as another": lambda home: rewritten(
        home / "pyvenv.cfg", lambda data: data.replace(b"/", b"_")
    ),
    "the interpreter is another": lambda home: relinked(home / "bin" / "python", "/bin/sh"),
    "the interpreter is gone": lambda home: (home / "bin" / "python").unlink(),
    "the description is no JSON": lambda home: (home / "environment.json").write_text("{"),
    "the description is another's": lambda home: (home / "environment.json").write_text(
        json.dumps({"format": "other"})
    ),
}


def module(home):
    return next(home.glob("lib/*/site-packages/onnxruntime")) / "__init__.py"


def damage(kind, home):
    DAMAGES[kind](home)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_environment_is_not_used(kind, copied, no_network):
    home = next(p for p in copied.iterdir() if p.is_dir())
    damage(kind, home)
    assert cached_environments(copied) == []
    refused(PINS, copied)


def test_a_copy_is_the_same_environment(copied):
    home = next(p for p in copied.iterdir() if p.is_dir())
    os.utime(next(home.glob("lib/*/site-packages/onnxruntime/__init__.py")), ns=(1, 1))
    assert [e.path for e in cached_environments(copied)] == [home]


@pytest.mark.parametrize("kind", ["a file", "under a file", "not to be written"])
def test_a_cache_that_cannot_be_had_is_said(kind, tmp_path):
    (tmp_path / "file").write_text("")
    cache = {
        "a file": tmp_path / "file",
        "under a file": tmp_path / "file" / "below",
        "not to be written": Path("/proc/nowhere"),
    }[kind]
    with pytest.raises(UsageError, match="environments cannot be kept here") as caught:
        environment_for(PINS, cache, where="m")
    assert "HARNESS_ENVIRONMENTS_DIR" in caught.value.remedy


def test_a_damaged_environment_is_built_again(copied):
    damage("a file is gone", next(p for p in copied.iterdir() if p.is_dir()))
    said = []
    environment = environment_for(PINS, copied, where="m", building=lambda: said.append(1))
    assert said == [1]
    assert cached_environments(copied) == [environment]


def test_an_index_that_cannot_be_reached(tmp_path, no_network):
    error = refused(PINS, tmp_path / "cache")
    assert "onnxruntime==1.26.0 and numpy==2.4.6 cannot be built" in error.what
    assert "where the index can be reached" in error.remedy


def test_an_empty_cache_without_a_network_is_told_as_that(tmp_path, monkeypatch):
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    error = refused(PINS, tmp_path / "cache")
    assert "was not found in the cache" in error.what
    assert "unset it" in error.remedy
    assert "later runs use the cached environment" in error.remedy


def test_a_failed_build_leaves_nothing(tmp_path, no_network):
    refused(PINS, tmp_path / "cache")
    assert [p.suffix for p in (tmp_path / "cache").iterdir()] == [".lock"]


def test_what_a_killed_builder_left_is_removed_and_no_other_s(tmp_path, no_network):
    home = environment_path(tmp_path, PINS, RUNNING).name
    left, other = tmp_path / f".building-{home}-dead", tmp_path / ".building-another-alive"
    for folder in (left, other):
        (folder / "environment").mkdir(parents=True)
    refused(PINS, tmp_path)
    assert not left.exists()
    assert other.exists()


def test_a_version_that_does_not_exist(tmp_path):
    error = refused(("onnxruntime==1.26.99", "numpy==2.4.6"), tmp_path)
    assert "no version of onnxruntime==1.26.99" in error.what
    assert "register it again" in error.remedy


def test_a_hash_that_is_not_the_wheels(tmp_path):
    error = refused((PINS[0], f"numpy==2.4.6 --hash=sha256:{'0' * 64}"), tmp_path)
    assert "Hash mismatch" in error.what


def test_no_wheel_for_this_python_nor_the_recorded_one(tmp_path):
    error = refused((PINS[0], "numpy==1.16.0"), tmp_path, second_python="3.7")
    assert f"(Python {RUNNING})" in error.what
    assert "(Python 3.7)" in error.what


def test_sources_are_never_built(tmp_path):
    # 1.8.2 has no wheel for any Python that this package runs on, only its sources.
    assert "wheels" in refused((PINS[0], "numpy==1.8.2"), tmp_path).what


def test_uv_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    error = refused(PINS, tmp_path)
    assert error.remedy == "Install it: pip install uv"


def test_an_environment_that_breaks_under_way_is_not_the_models_fault(copied, make_model):
    home = next(p for p in copied.iterdir() if p.is_dir())
    damage("a file is gone", home)
    shutil.rmtree(next(home.glob("lib/*/site-packages/numpy")))
    wanted = Look(model=make_model(), python=home / "bin" / "python")
    with pytest.raises(EnvironmentUnavailableError, match="does not get as far as loading a model"):
        look([wanted], LIMITS, allow_weaker=True)


def test_what_broke_under_way_is_built_anew_even_if_nothing_shows(copied, make_model):
    home = next(p for p in copied.iterdir() if p.is_dir())
    package = next(home.glob("lib/*/site-packages/numpy/_core/_multiarray_umath*.so"))
    before = package.stat()
    package.unlink()
    package.write_bytes(bytes(before.st_size))
    os.utime(package, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cached_environments(copied), "the damage shows at once: the test tests nothing"
    with pytest.raises(EnvironmentUnavailableError):
        look([Look(model=make_model(), python=home / "bin" / "python")], LIMITS, allow_weaker=True)
    said = []
    environment = environment_for(PINS, copied, where="m", building=lambda: said.append(1))
    assert said == [1]
    assert answer(make_model(), environment.interpreter)[1].shape == (2, 1024)


@pytest.mark.slow
def test_versions_that_do_not_work_together_are_told_when_built(tmp_path):
    error = refused(("onnxruntime==1.18.1", "numpy==2.2.6"), tmp_path)
    assert "numpy 2.2.6 and onnxruntime 1.18.1 do not run together" in error.what


@pytest.mark.slow
@pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="onnxruntime 1.15 has no wheel from 3.12 on"
)
@pytest.mark.parametrize(
    "pins",
    [
        ("onnxruntime==1.15.1", "numpy==1.24.4"),
        # Between the oldest and the newest; what tells runtimes apart runs with 1.25.1 and 1.26.0 anyway.
        pytest.param(("onnxruntime==1.18.1", "numpy<2"), marks=pytest.mark.long),
        pytest.param(("onnxruntime==1.23.2", "numpy==2.3.5"), marks=pytest.mark.long),
        pytest.param(("onnxruntime==1.25.1", "numpy==2.4.6"), marks=pytest.mark.long),
        pytest.param(("onnxruntime==1.28.0", "numpy==2.4.6"), marks=pytest.mark.long),
        ("onnxruntime", "numpy"),
    ],
    ids=lambda pins: pins[0],
)
def test_one_worker_serves_every_runtime(pins, tmp_path, make_model):
    environment = environment_for(pins, tmp_path, where="m")
    versions, y = answer(make_model(), environment.interpreter)
    assert versions["onnxruntime"] == dict(environment.packages)["onnxruntime"]
    assert (y == 3.0).all()
    assert version("onnxruntime") == answer(make_model(), None)[0]["onnxruntime"]


def test_time_limit_and_last_words_are_told(monkeypatch, tmp_path):
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\nexec sleep 60\n")
    uv.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(installing, "TIME_LIMIT_S", 0.2)
    assert "was not done after" in refused(PINS, tmp_path / "cache").what
    monkeypatch.setattr(installing, "TIME_LIMIT_S", 60)
    uv.write_text("#!/bin/sh\necho 'error: the roof is on fire' >&2\nexit 7\n")
    assert "the roof is on fire" in refused(PINS, tmp_path / "cache").what
    assert Path(installing.uv_program()) == uv
