"""Golden rows as files that somebody else may have made: links, no version, and the words of a difference."""

import numpy as np
import pytest
from gates import tiny_model, tiny_traffic


@pytest.fixture
def model(tmp_path):
    (tmp_path / "models").mkdir()
    return tiny_model(tmp_path / "models" / "old.onnx")


@pytest.fixture
def compared(model, tmp_path, harness):
    """Makes golden rows of the model, lets a test change them, and compares the model with itself."""

    def compare(change):
        traffic = tiny_traffic(tmp_path / "traffic")
        place = model.with_suffix(".golden.npz")
        assert harness("golden", "make", model, "-i", traffic).code == 0
        change(place)
        return harness("compare", model, model, "-i", traffic, "--graph-requests", "0", "-q")

    return compare


def rewritten(**changes):
    def change(place):
        with np.load(place, allow_pickle=False) as saved:
            arrays = dict(saved)
        np.savez(place, **(arrays | {n: make(arrays) for n, make in changes.items()}))

    return change


def test_a_link_out_of_the_folder_is_not_followed(compared, tmp_path):
    def moved(place):
        place.rename(tmp_path / "elsewhere.npz")
        place.symlink_to("../elsewhere.npz")

    ran = compared(moved)
    assert ran.code == 2
    assert "is a link that leaves the folder" in ran.err


def test_a_link_within_the_folder_is_followed(compared):
    def moved(place):
        place.rename(place.with_name("kept.npz"))
        place.symlink_to("kept.npz")

    assert compared(moved).code == 0


def test_rows_that_name_no_version_are_told(compared):
    ran = compared(rewritten(model=lambda _: np.array("")))
    assert ran.code == 0
    assert "whether its golden rows are its own: they name no version" in ran.out


def test_a_difference_reads_as_a_sentence(compared):
    def recoded(arrays):
        return np.where(arrays["output:label"] == 0, 2, 1)

    ran = compared(rewritten(**{"output:label": recoded}))
    assert "(now is 0 wherever the logged one is 2; " in ran.out
