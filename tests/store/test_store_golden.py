"""Golden rows as a file: what its arrays cannot hold is refused, not changed."""

import numpy as np
import pytest

from harness.core.errors import UsageError
from harness.store.golden import GoldenRows, read_golden, write_golden


def rows(*texts):
    y = np.zeros(len(texts))
    return GoldenRows(
        model="m", inputs={"s": np.array(texts, object)}, features={}, outputs={"y": y}
    )


def test_text_comes_back_as_it_was(tmp_path):
    path = tmp_path / "m.golden.npz"
    write_golden(path, rows("a\0b", "", "é"))
    assert read_golden(path, "m").inputs["s"].tolist() == ["a\0b", "", "é"]


@pytest.mark.parametrize(
    "texts", [("a\0", "b"), ("x" * 100_000, *["a"] * 999)], ids=["nul", "long"]
)
def test_text_of_no_one_width_is_refused(texts, tmp_path):
    path = tmp_path / "m.golden.npz"
    with pytest.raises(UsageError, match="input 's': cannot be saved"):
        write_golden(path, rows(*texts))
    assert not path.exists()
