"""Locales that a model asks for: those of this machine are there behind the lock, others blame nobody."""

import shutil
from pathlib import Path

import emulation
import numpy as np
import pytest
import sandbox_models as models
from onnx import TensorProto

from harness.core.policies import SandboxPolicy
from harness.sandbox.child import locales
from harness.sandbox.graphs import Look, Looked, look
from harness.sandbox.hello import LoadFailure, refused
from harness.sandbox.lacking_locale import lacking_locale
from harness.sandbox.process import Sandbox
from harness.sandbox.tracing import Tracer

LIMITS = SandboxPolicy()
KEPT = Path("/usr/lib/locale/C.utf8")
ABSENT = "xx_XX.UTF-8"
SAID = (
    "Fail: [ONNXRuntimeError] : 1 : FAIL : Exception during initialization: /core/string_normalizer.cc:235 "
    "Locale(const std::string&) Failed to construct locale with name:{}:locale::facet::_S_create_c_locale "
    "name not valid:Please, install necessary language-pack-XX and configure locales"
)
WORDS = np.array(["Late RAIN", "ÄRGER", ""], object)

needs_a_folder = pytest.mark.skipif(not KEPT.is_dir(), reason="no locale is kept as a folder here")


def normaliser(path: Path, **attributes: str) -> Path:
    """Words in small letters."""
    node = models.node("StringNormalizer", ["x"], ["y"], case_change_action="LOWER", **attributes)
    text = TensorProto.STRING
    return models.saved(path, [node], [models.tensor("x", text)], [models.tensor("y", text)])


def lowered(model: Path, python: Path | None = None) -> list[str] | LoadFailure:
    """Words in small letters, by a sandboxed session in which nothing can be opened; or why it does not load."""
    sandbox = Sandbox.start(model, name="c", limits=LIMITS, python=python)
    if isinstance(sandbox, LoadFailure):
        return sandbox
    with sandbox:
        assert all(test.refused for test in sandbox.isolation.self_tests)
        sandbox.submit({"x": WORDS}, len(WORDS), trace=False)
        return sandbox.collect().outputs["y"].tolist()


@needs_a_folder
@pytest.mark.parametrize("spelled", ["C.UTF-8", "C.utf8"])
def test_a_locale_of_this_machine_is_there_behind_the_lock(tmp_path, spelled):
    model = normaliser(tmp_path / "m.onnx", locale=spelled)
    assert lowered(model) == ["late rain", "ärger", ""]
    (looked,) = look([Look(model=model)], LIMITS)
    assert isinstance(looked, Looked), looked
    with Tracer.start(model, limits=LIMITS) as tracer:
        assert tracer.tensors == ("y",)


@needs_a_folder
def test_the_locale_of_a_model_that_names_none_is_there_behind_the_lock(tmp_path):
    # Where glibc looks for locales instead; Landlock would hide this folder already from the imports.
    shutil.copytree(KEPT, tmp_path / "locales" / "en_US.utf8")
    python = emulation.interpreter(tmp_path, "no-landlock", LOCPATH=str(tmp_path / "locales"))
    assert lowered(normaliser(tmp_path / "m.onnx"), python) == ["late rain", "ärger", ""]


def test_a_locale_that_is_nowhere_blames_the_machine(tmp_path):
    model = normaliser(tmp_path / "m.onnx", locale=ABSENT)
    own = emulation.interpreter(tmp_path)
    seen = look([Look(model=model), Look(model=model, python=own)], LIMITS)
    for failure in (lowered(model), *seen, Tracer.start(model, limits=LIMITS)):
        assert isinstance(failure, LoadFailure), failure
        assert failure.kind == "locale"
        assert (
            failure.message
            == f"asks for the locale '{ABSENT}', which cannot be had on this machine"
        )
        assert f"localedef -i xx_XX -f UTF-8 {ABSENT}" in failure.remedy


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("de_DE@euro", "'de_DE@euro'"),
        ("", "''"),
        ("a:b", "'a:b'"),
        ("x\x1b[2J\ny", "'x\\u000ay'"),
        ("x_XX.UTF-8;rm", "'x_XX.UTF-8;rm'"),
        ("x" * 500, f"'{'x' * 60}…'"),
    ],
)
def test_a_name_is_shown_and_never_part_of_a_command_that_it_does_not_fit(name, shown):
    failure = refused("load", SAID.format(name))
    assert failure.kind == "locale"
    assert failure.message == f"asks for the locale {shown}, which cannot be had on this machine"
    assert "localedef" not in failure.remedy
    assert "locale -a" in failure.remedy


def test_a_message_that_was_cut_off_still_blames_the_machine():
    failure = refused("load", "Fail: Failed to construct locale with name:" + "x" * 1900)
    assert (failure.kind, failure.message[:24]) == ("locale", "asks for the locale 'xxx")


def test_another_failure_stays_what_it_is():
    assert refused("look", "Fail: no such operator") == LoadFailure(
        kind="look", message="Fail: no such operator"
    )


def test_a_bounded_number_of_folders_is_held_those_of_utf8_first(tmp_path):
    (tmp_path / "locale-archive").touch()
    for number in range(20):
        (tmp_path / f"a{number:02}.iso88591").mkdir()
    for name in ("de_DE.utf8", "en_US.utf8"):
        (tmp_path / name).mkdir()
    held = locales.folders(bytes(tmp_path))
    assert held[:3] == [b"de_DE.utf8", b"en_US.utf8", b"a00.iso88591"]
    assert len(held) == locales.MOST
    assert locales.folders(bytes(tmp_path / "nowhere")) == []


def test_a_node_that_goes_by_the_words_of_a_lacking_locale_is_none():
    said = "Fatal error: ai.onnx:Nothing(-1) is not a registered function/op. Node:Failed to construct locale"
    assert lacking_locale(said) is None
    assert (
        lacking_locale("Failed to construct locale with name:de_DE.UTF-8:Please, install")
        is not None
    )
