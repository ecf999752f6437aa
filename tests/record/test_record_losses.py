"""Files that are damaged, cut off or of other columns: what they hide is counted or estimated."""

import gzip
import json
from collections import Counter

import logs_made as made
import pytest
from test_record_importers import imported, plain_row, traffic

from harness.core.errors import TrafficError
from harness.decide.facts import TrafficFacts
from harness.decide.integrity import unfit_traffic
from harness.record.importers.ledger import Reading
from harness.record.importers.losses import CUT_SHORT, WHOLE, WITHOUT_COLUMNS, hidden_records
from harness.store.totals import not_recorded, read_totals

NOT_USED = "a record of the logs could not be used"
ESTIMATED = "in files that cannot be read, estimated by the whole ones"


def rows(first, count):
    return [plain_row(made.exchange(i)) for i in range(first, first + count)]


def table(path, first, count):
    made.write_table(path, rows(first, count))
    return path


def json_lines(path, found):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in found))


def damage(path):
    """Breaks the pages of a Parquet file, and leaves its footer."""
    content = bytearray(path.read_bytes())
    content[4:60] = bytes(b ^ 0xFF for b in content[4:60])
    path.write_bytes(content)


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lost(to):
    """What a gate hears of, and whether it holds."""
    totals = read_totals([to])
    (one,) = totals
    assert one.seen == one.written + one.waiting + sum(n for _, n in one.not_recorded)
    found = not_recorded(totals)
    facts = TrafficFacts(sealed=len(traffic(to)), not_recorded=found)
    return dict(found), unfit_traffic(facts) is not None


def adds_up(report):
    taken = report.joined + report.one_sided_requests
    return report.records == taken + report.duplicates + report.oversized + report.undecodable


def test_a_damaged_file_counts_as_many_records_as_its_footer_says(tmp_path):
    table(tmp_path / "logs" / "whole.parquet", 0, 300)
    damage(table(tmp_path / "logs" / "hurt.parquet", 300, 40))
    report = imported("table", tmp_path / "logs", tmp_path / "t")
    assert (report.files, report.records, report.joined, report.undecodable) == (1, 340, 300, 40)
    assert (report.estimated, adds_up(report)) == (0, True)
    (cut,) = report.files_cut
    assert cut.startswith("hurt.parquet:1: the file is damaged")
    assert cut.endswith("(40 records)")
    assert lost(tmp_path / "t") == ({NOT_USED: 40}, True)


def test_a_damaged_file_is_read_up_to_the_damage(tmp_path):
    path = table(tmp_path / "logs" / "t.parquet", 0, 700)
    content = path.read_bytes()
    at = len(content) * 2 // 3  # the last column's pages; rows are read in batches before them
    path.write_bytes(
        content[:at] + bytes(b ^ 0xFF for b in content[at : at + 40]) + content[at + 40 :]
    )
    table(tmp_path / "logs" / "u.parquet", 700, 10)
    report = imported("table", tmp_path / "logs", tmp_path / "t")
    assert (report.records, adds_up(report)) == (710, True)
    assert report.undecodable > 0


def test_half_a_file_counts_as_the_largest_whole_one(tmp_path):
    for k in range(3):
        table(tmp_path / "logs" / f"{k}.parquet", 100 * k, 100)
    halve(tmp_path / "logs" / "1.parquet")
    report = imported("table", tmp_path / "logs", tmp_path / "t")
    assert (report.records, report.undecodable, report.estimated) == (201, 1, 99)
    assert lost(tmp_path / "t") == ({NOT_USED: 1, ESTIMATED: 99}, True)
    assert "about 99 more" in report.to_text()


def test_half_a_file_among_very_many_stops_no_gate(tmp_path):
    table(tmp_path / "logs" / "0.parquet", 0, 20)
    for k in range(1, 25):
        table(tmp_path / "logs" / f"{k}.parquet", 20 * k, 20)
    halve(tmp_path / "logs" / "0.parquet")
    imported("table", tmp_path / "logs", tmp_path / "t")
    assert lost(tmp_path / "t") == ({NOT_USED: 1, ESTIMATED: 19}, False)


def test_a_packed_file_that_is_cut_off_alone_hides_as_many_as_it_gave(tmp_path):
    content = "".join(json.dumps(row) + "\n" for row in rows(0, 400)).encode()
    packed = gzip.compress(content)
    (tmp_path / "t.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    report = imported("table", tmp_path / "t.jsonl.gz", tmp_path / "t")
    assert 0 < report.joined < 400
    assert lost(tmp_path / "t")[1]
    assert report.estimated > 0.05 * report.joined


def test_a_repaired_file_hides_nothing(tmp_path):
    whole = table(tmp_path / "logs" / "1.parquet", 100, 100).read_bytes()
    table(tmp_path / "logs" / "0.parquet", 0, 100)
    for broken in (halve, damage):
        (tmp_path / "logs" / "1.parquet").write_bytes(whole)
        broken(tmp_path / "logs" / "1.parquet")
        report = imported("table", tmp_path / "logs", tmp_path / "t")
        assert report.estimated + report.undecodable == 100
    (tmp_path / "logs" / "1.parquet").write_bytes(whole)
    report = imported("table", tmp_path / "logs", tmp_path / "t")
    assert (report.joined, report.records, report.estimated, report.files) == (200, 200, 0, 2)
    assert lost(tmp_path / "t") == ({}, False)


def test_what_a_file_hid_that_is_gone_is_no_longer_lost_and_that_is_said(tmp_path):
    logs = tmp_path / "logs"
    for k in range(2):
        table(logs / f"{k}.parquet", 100 * k, 100)
    whole = (logs / "1.parquet").read_bytes()
    halve(logs / "1.parquet")
    assert imported("table", logs, tmp_path / "t").estimated == 99
    (logs / "1.parquet").rename(tmp_path / "half")
    (logs / "2.parquet").write_bytes(whole)
    for _ in range(2):
        report = imported("table", logs, tmp_path / "t")
        assert (report.joined, report.estimated, report.files_gone) == (200, 0, 1)
        assert lost(tmp_path / "t") == ({}, False)
    assert "1 files that were not whole: what they hid no longer counts as lost" in report.to_text()
    (totals,) = read_totals([tmp_path / "t"])
    assert any("are gone" in fault for fault, _ in totals.faults)
    (tmp_path / "half").rename(logs / "1.parquet")  # as it was, and when
    report = imported("table", logs, tmp_path / "t")
    assert (report.estimated, report.files_gone) == (99, 0)


@pytest.mark.parametrize("broken", [damage, lambda path: made.write_table(path, [{"k": 1}] * 100)])
def test_what_a_file_says_to_hold_counts_until_it_is_gone(broken, tmp_path):
    for k in range(3):
        table(tmp_path / "logs" / f"{k}.parquet", 100 * k, 100)
    content = (tmp_path / "logs" / "2.parquet").read_bytes()
    broken(tmp_path / "logs" / "2.parquet")
    imported("table", tmp_path / "logs", tmp_path / "t")
    assert lost(tmp_path / "t") == ({NOT_USED: 100}, True)
    (tmp_path / "logs" / "2.parquet").rename(tmp_path / "logs" / "2.parquet.bad")
    (tmp_path / "logs" / "3.parquet").write_bytes(content)
    for _ in range(2):
        report = imported("table", tmp_path / "logs", tmp_path / "t")
        assert (report.joined, report.files_gone, adds_up(report)) == (300, 1, True)
        assert lost(tmp_path / "t") == ({}, False)


def test_a_bad_row_of_a_file_that_is_gone_stays_lost(tmp_path):
    found = rows(0, 30)
    found[3]["hour"] = "noon"
    json_lines(tmp_path / "logs" / "0.jsonl", found)
    json_lines(tmp_path / "logs" / "1.jsonl", rows(30, 30))
    imported("table", tmp_path / "logs", tmp_path / "t")
    (tmp_path / "logs" / "0.jsonl").unlink()
    report = imported("table", tmp_path / "logs", tmp_path / "t")
    assert report.files_gone == 0
    assert lost(tmp_path / "t")[0] == {NOT_USED: 1}


@pytest.mark.parametrize("other", ["logs/0.parquet", "others/2.parquet"])
def test_a_file_that_is_not_asked_for_or_whose_folder_is_not_is_still_estimated(other, tmp_path):
    logs = tmp_path / "logs"
    for name, first in (("logs/0", 0), ("logs/1", 100), ("others/2", 200)):
        table(tmp_path / f"{name}.parquet", first, 100)
    halve(logs / "1.parquet")
    imported("table", logs, tmp_path / "t")
    if other.startswith("others"):
        (logs / "1.parquet").unlink()
    report = imported("table", tmp_path / other, tmp_path / "t")
    assert (report.estimated, report.files_gone) == (99, 0)


def test_a_parquet_file_of_0_bytes_hides_nothing_that_is_known(tmp_path):
    table(tmp_path / "logs" / "0.parquet", 0, 100)
    (tmp_path / "logs" / "1.parquet").touch()
    for _ in range(2):
        report = imported("table", tmp_path / "logs", tmp_path / "t")
        assert (report.files, report.records, report.undecodable) == (1, 100, 0)
        assert report.files_cut[0].startswith("1.parquet:1: the file is damaged")
        assert "0 bytes" in report.files_cut[0]
        assert lost(tmp_path / "t") == ({}, False)
    table(tmp_path / "logs" / "1.parquet", 100, 100)
    report = imported("table", tmp_path / "logs", tmp_path / "t")
    assert (report.joined, report.files_cut) == (200, ())


def test_a_parquet_file_of_0_bytes_alone_is_an_error(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "1.parquet").touch()
    with pytest.raises(TrafficError, match="no record in it"):
        imported("table", tmp_path / "logs", tmp_path / "t")


def without(column, found):
    return [{n: v for n, v in row.items() if n != column} for row in found]


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_a_file_without_a_column_costs_itself_only(form, tmp_path):
    for k, found in enumerate([rows(0, 30), without("p", rows(30, 30)), rows(60, 30)]):
        path = tmp_path / "logs" / f"{k}.{form}"
        (json_lines if form == "jsonl" else made.write_table)(path, found)
    for _ in range(2):
        report = imported("table", tmp_path / "logs", tmp_path / "t")
        assert (report.joined, report.files) == (60, 2)
        known = 30 if form == "parquet" else 1
        assert (report.undecodable, report.records) == (known, 60 + known)
        (left_out,) = report.files_cut
        assert left_out.startswith(f"1.{form}: the file is left out: no column 'p'")
        assert adds_up(report)
        found, holds = lost(tmp_path / "t")
        assert 20 <= sum(found.values()) <= 40
        assert holds


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_files_that_all_lack_a_column_are_an_error_each_time_and_write_nothing(form, tmp_path):
    for k in range(2):
        path = tmp_path / "logs" / f"{k}.{form}"
        found = without("p", rows(30 * k, 30))
        (json_lines if form == "jsonl" else made.write_table)(path, found)
    for _ in range(2):
        with pytest.raises(TrafficError, match="no column 'p'"):
            imported("table", tmp_path / "logs", tmp_path / "t")
        assert [p.name for p in (tmp_path / "t").iterdir()] == [".import"]


def test_a_file_that_got_its_column_is_read(tmp_path):
    table(tmp_path / "logs" / "0.parquet", 0, 30)
    made.write_table(tmp_path / "logs" / "1.parquet", without("p", rows(30, 30)))
    imported("table", tmp_path / "logs", tmp_path / "t")
    table(tmp_path / "logs" / "1.parquet", 30, 30)
    report = imported("table", tmp_path / "logs", tmp_path / "t")
    assert (report.joined, report.undecodable, report.files_cut) == (60, 0, ())
    assert lost(tmp_path / "t") == ({}, False)


def reading(size, records, kind=WHOLE):
    return Reading(size_bytes=size, records=records, counts=Counter({kind: 1}))


@pytest.mark.parametrize(
    ("readings", "hidden"),
    [
        ([], 0),
        ([reading(100, 10), reading(200, 20)], 0),
        # cut: as the largest, or by size, less what was read and the one that is counted
        ([reading(100, 10), reading(200, 20), reading(50, 6, CUT_SHORT)], 14),
        ([reading(100, 10), reading(200, 20), reading(1000, 6, CUT_SHORT)], 94),
        ([reading(100, 10), reading(50, 99, CUT_SHORT)], 0),
        ([reading(100, 10), reading(0, 1, CUT_SHORT)], 9),
        # left out: by size
        ([reading(100, 10), reading(200, 20), reading(50, 1, WITHOUT_COLUMNS)], 4),
        # nothing whole: as many as were read
        ([reading(50, 6, CUT_SHORT), reading(50, 4, CUT_SHORT)], 9 + 9),
        ([reading(50, 6, CUT_SHORT), reading(50, 1, WITHOUT_COLUMNS)], 6 + 6),
        ([reading(0, 0), reading(50, 1, CUT_SHORT)], 0),
    ],
)  # fmt: skip
def test_what_files_hide_is_estimated_by_the_whole_ones(readings, hidden):
    assert hidden_records(readings) == hidden
