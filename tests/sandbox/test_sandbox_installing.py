"""What a wheel brings along does not run: not while it is installed, and not before the lock."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from harness.core.policies import SandboxPolicy
from harness.sandbox.child import packages
from harness.sandbox.hello import LoadFailure
from harness.sandbox.installing import InstallError, install
from harness.sandbox.process import Sandbox

RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
PINS = ("onnxruntime==7.7.7",)
INFO = "onnxruntime-7.7.7.dist-info"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """Writes a wheel of onnxruntime with some more files; it is the only one there is."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))

    def written(**more):
        files = {
            "onnxruntime/__init__.py": b"",
            f"{INFO}/METADATA": b"Metadata-Version: 2.1\nName: onnxruntime\nVersion: 7.7.7\n",
            f"{INFO}/WHEEL": b"Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        } | more
        record = "".join(
            f"{name},sha256={digest(data)},{len(data)}\n" for name, data in files.items()
        )
        files.setdefault(f"{INFO}/RECORD", f"{record}{INFO}/RECORD,,\n".encode())
        with zipfile.ZipFile(folder / "onnxruntime-7.7.7-py3-none-any.whl", "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)

    return written


def digest(data):
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "name",
    [
        "zz.pth",
        "sitecustomize.py",
        "usercustomize/__init__.py",
        "onnxruntime-7.7.7.data/data/pyvenv.cfg",
    ],
)
def test_a_wheel_with_what_runs_at_a_start_is_refused(name, wheel, tmp_path):
    ran = tmp_path / "ran"
    wheel(**{name: f"import os; open({str(ran)!r}, 'a').write('x')\n".encode()})
    with pytest.raises(InstallError, match="which an interpreter would run by itself"):
        install(PINS, tmp_path / "environment", RUNNING)
    assert not ran.exists()


def test_only_packages_of_a_wheel_are_kept(wheel, tmp_path):
    wheel(
        **{
            "onnxruntime-7.7.7.data/scripts/tool": b"#!python\n",
            "onnxruntime-7.7.7.data/data/etc/x": b"",
        }
    )
    environment = tmp_path / "environment"
    install(PINS, environment, RUNNING)
    assert next(environment.glob("lib/*/site-packages/onnxruntime/__init__.py")).is_file()
    assert not (environment / "bin" / "tool").exists()
    assert not (environment / "etc" / "x").exists()
    assert not list(environment.glob("lib/*/site-packages/*.pth"))


@pytest.mark.parametrize("name", ["zz.pth", "sitecustomize.py"])
def test_nothing_of_an_environment_runs_before_the_lock(name, tmp_path, make_model):
    environment, ran = tmp_path / "environment", tmp_path / "ran"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    site = next(environment.glob("lib/*/site-packages"))
    (site / name).write_text(f"import os; open({str(ran)!r}, 'a').write('x')\n")
    subprocess.run([environment / "bin" / "python", "-c", ""], check=True)
    assert ran.exists()  # such a file does run where nothing is done about it
    ran.unlink()
    started = Sandbox.start(
        make_model(), name="m", limits=SandboxPolicy(require="S0"), allow_weaker=True,
        python=environment / "bin" / "python",
    )  # fmt: skip
    assert isinstance(started, LoadFailure)
    assert "No module named 'numpy'" in started.message
    assert not ran.exists()


SAID = """
import json, sys
sys.path.insert(0, sys.argv[1])
from harness.sandbox.child import packages
print(json.dumps([packages.folders(), sys.prefix]))
"""


@pytest.mark.parametrize("shared", [False, True])
def test_packages_are_found_as_the_interpreter_itself_finds_them(shared, tmp_path):
    environment = tmp_path / "environment"
    options = ["--system-site-packages"] if shared else []
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", *options, environment], check=True
    )
    python = environment / "bin" / "python"
    code = tmp_path / "code" / "harness" / "sandbox" / "child"
    code.mkdir(parents=True)
    shutil.copy(packages.__file__, code)
    found, prefix = json.loads(
        subprocess.run(
            [python, "-I", "-BS", "-c", SAID, str(tmp_path / "code")],
            capture_output=True, check=True, text=True,
        ).stdout
    )  # fmt: skip
    own = "import json, site, sys; print(json.dumps([[p for p in sys.path if 'packages' in p], sys.prefix]))"
    expected, itself = json.loads(
        subprocess.run([python, "-I", "-c", own], capture_output=True, check=True, text=True).stdout
    )
    assert (found, prefix) == (expected, itself)


def packages_of(environment):
    return next(environment.glob("lib/*/site-packages"))


def written_in_place(path):
    """The same file with other bytes: whoever links to it sees them."""
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.write(b"#" * len(data))


def unpacked(tmp_path):
    """The module as it lies in uv's cache."""
    (found,) = (tmp_path / "uv-cache").glob("archive-v0/*/onnxruntime/__init__.py")
    return found


def test_an_environment_shares_no_file_with_uvs_cache(wheel, tmp_path):
    wheel(**{"onnxruntime/__init__.py": b"whole = 1\n"})
    install(PINS, tmp_path / "environment", RUNNING)
    written_in_place(packages_of(tmp_path / "environment") / "onnxruntime" / "__init__.py")
    assert unpacked(tmp_path).read_bytes() == b"whole = 1\n"


@pytest.mark.parametrize("kind", ["altered", "gone", "added", "record"])
def test_what_is_damaged_in_uvs_cache_is_fetched_anew(kind, wheel, tmp_path):
    wheel(**{"onnxruntime/__init__.py": b"whole = 1\n", "onnxruntime/more.py": b"more = 1\n"})
    install(PINS, tmp_path / "first", RUNNING)
    module = unpacked(tmp_path)
    if kind == "altered":
        written_in_place(module)
    elif kind == "gone":
        module.with_name("more.py").unlink()
    elif kind == "record":
        written_in_place(module.parents[1] / INFO / "RECORD")
    else:
        module.with_name("other.py").write_text("")
    install(PINS, tmp_path / "second", RUNNING)
    found = packages_of(tmp_path / "second") / "onnxruntime"
    assert (found / "__init__.py").read_bytes() == b"whole = 1\n"
    assert {path.name for path in found.glob("*.py")} == {"__init__.py", "more.py"}
    assert unpacked(tmp_path).read_bytes() == b"whole = 1\n"


def test_what_is_damaged_and_cannot_be_had_anew_is_refused(wheel, tmp_path):
    wheel(**{"onnxruntime/__init__.py": b"whole = 1\n"})
    install(PINS, tmp_path / "first", RUNNING)
    written_in_place(unpacked(tmp_path))
    # uv takes what it unpacked while the wheel's time is the same, and so sees this only then.
    source = next((tmp_path / "wheels").iterdir())
    before = source.stat()
    source.write_bytes(b"no wheel")
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(InstallError, match="holds of onnxruntime is damaged, and it could not"):
        install(PINS, tmp_path / "second", RUNNING)


def test_a_wheel_that_is_not_as_its_record_says_is_refused(wheel, tmp_path):
    wheel(**{f"{INFO}/RECORD": f"onnxruntime/__init__.py,sha256={digest(b'x')},1\n".encode()})
    with pytest.raises(InstallError, match=r"is not as its wheel's RECORD says, also when fetched"):
        install(PINS, tmp_path / "environment", RUNNING)
