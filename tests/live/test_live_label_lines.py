"""Lines that are no labels are counted, whatever they hold, and the next one is read."""

import pytest

from harness.live.label_file import LabelFile

GOOD = b'{"unit": "u", "label": 1}\n'
LONG = b"x" * (9 << 20)


@pytest.mark.parametrize(
    "line",
    [
        b'{"unit": "u", "label": ' + b"9" * 400 + b"}",
        b"[" * 100_000,
        b'{"unit": "u", "label": true}',
        LONG,
        b"odd\rline",
    ],
    ids=["number", "nesting", "truth", "long", "return"],
)
def test_a_line_that_is_no_label_is_counted_and_the_next_is_read(tmp_path, line):
    path = tmp_path / "labels"
    path.write_bytes(line + b"\n" + GOOD)
    file = LabelFile(path)
    found = [label for now in range(5) for label in file.read(now)]
    assert ([label.value for label in found], file.unreadable) == ([1.0], 1)
