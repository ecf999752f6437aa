"""Lines that are no labels are counted, whatever they hold, and the next one is read."""

from pathlib import Path

import pytest
from canaries import POLICY, Traffic, live

from harness.live.folder import CanaryFolder
from harness.live.identity import Identity
from harness.live.keeper import notes_of
from harness.live.label_file import LabelFile
from harness.live.labels import UNREADABLE, LabelBook

GOOD = b'{"unit": "u", "label": 1}\n'
LONG = b"x" * (9 << 20)
OPEN = Path("/proc/self/fd")


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
    assert [(label.unit, label.offset) for label in found] == [
        ("", len(line) + 1),
        ("u", len(line) + 1 + len(GOOD)),
    ]


@pytest.mark.parametrize("judged", [True, False], ids=["judged", "killed_before"])
def test_lines_that_are_no_labels_are_counted_once_over_a_kill(tmp_path, judged):
    path, out, policy = tmp_path / "labels", tmp_path / "c", live()
    path.write_bytes(b"noise\n" + GOOD + b"[1]\n" + LONG + b"\n" + LONG)
    asked = Identity.of(policy, seed="s", baseline="b", candidate="c")
    traffic = Traffic()

    def read(canary):
        file = LabelFile(path, *canary.labels_taken)
        for _ in range(6):
            for label in file.read(traffic.now_ns):
                canary.labelled(label)

    folder, canary = CanaryFolder.start(out, policy, asked, POLICY)
    read(canary)
    traffic.answered(canary, 5)
    entry = canary.batch(traffic.now_ns + 1)
    if judged:
        folder.append(entry, canary.counts)
    folder.close()  # nothing is saved
    folder, canary = CanaryFolder.start(out, policy, asked, POLICY)
    read(canary)
    canary.judge(canary.batch(traffic.now_ns + 2))
    folder.close()
    assert canary.counts["label_unreadable"] == 3
    assert "3 lines of the label file are no labels" in notes_of(canary.standing())


def test_a_label_file_that_became_shorter_is_gone_on_with_from_where_it_is_now(tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(GOOD * 9)
    book = LabelBook(())
    file = LabelFile(path)
    for content in (GOOD * 9, b"noise\n"):
        path.write_bytes(content)
        for label in file.read(1):
            book.add(label)
        book.take(2)
    assert (book.offset, book.counts[UNREADABLE]) == (6, 1)


def test_a_label_file_that_became_a_directory_costs_no_descriptor(tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(GOOD)
    file = LabelFile(path)
    assert len(file.read(1)) == 1
    path.unlink()
    path.mkdir()
    open_before = len(list(OPEN.iterdir()))
    assert [file.read(now) for now in range(2, 12)] == [[]] * 10
    assert len(list(OPEN.iterdir())) < open_before + 5
    assert (file.troubles, "no regular file" in file.trouble) == (1, True)
