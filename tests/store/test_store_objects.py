"""Traffic in an object store: the same as in a folder, against a real S3 server process."""

import dataclasses
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from certificates import self_signed
from exchanges_made import exchange
from hypothesis import given
from hypothesis import strategies as st
from s3_servers import served

from harness.core.errors import TrafficError, UsageError
from harness.core.places import ObjectPlace, place_from_text
from harness.store.label_rows import label_paths, write_labels
from harness.store.labels import read_labels
from harness.store.partitions import (
    HOUR_NS,
    PartitionedWriter,
    TrafficSelection,
    partition_folder,
    partition_of,
)
from harness.store.places import move
from harness.store.tables import open_traffic
from harness.store.traffic import TrafficSource

START_NS = 1_372_636_800_000_000_000  # 2013-07-01


def recorded(count, *, step_ns=HOUR_NS // 4, models=("flights",)):
    return [
        exchange(i, ts_ns=START_NS + i * step_ns, model=models[i % len(models)])
        for i in range(count)
    ]


def test_objects_come_back_as_they_were_written(bucket, tmp_path):
    exchanges = recorded(30)
    with PartitionedWriter(bucket / "t", spool=tmp_path) as writer:
        writer.write(exchanges)
    source = TrafficSource.open([bucket / "t"])
    assert sorted(source.exchanges(), key=lambda e: e.ts_ns) == exchanges
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_window_from_objects_is_the_window_from_files(bucket, tmp_path):
    for out in (bucket / "t", tmp_path / "t"):
        with PartitionedWriter(out, spool=tmp_path / "spool") as writer:
            writer.write(recorded(20))
    windows = [
        open_traffic([place], tmp_path / name)
        for place, name in ((bucket / "t", "a"), (tmp_path / "t", "b"))
    ]
    assert windows[0].info == windows[1].info


def test_labels_beside_objects_are_read(bucket, tmp_path):
    n = 3
    write_labels(
        tmp_path / "l.parquet", request_id=np.array(["a", "b", "c"], object), label=np.ones(n),
        event_ts_ns=np.zeros(n, np.int64), label_event_ts_ns=np.zeros(n, np.int64),
        ingestion_ts_ns=np.arange(n),
    )  # fmt: skip
    move(tmp_path / "l.parquet", bucket / "t" / "labels" / "l.parquet")
    assert len(read_labels(label_paths(bucket / "t"), None)) == 3


def test_files_that_a_killed_writer_left_are_uploaded_by_the_next(bucket, tmp_path):
    exchanges = recorded(3)
    with PartitionedWriter(tmp_path) as killed:
        killed.write(exchanges)
    with PartitionedWriter(bucket / "t", spool=tmp_path) as writer:
        writer.write([exchange(9, ts_ns=START_NS)])
    read = list(TrafficSource.open([bucket / "t"]).exchanges())
    assert sorted(e.request_id for e in read) == sorted(
        ["fl-000009", *(e.request_id for e in exchanges)]
    )


def test_numbers_go_on_after_the_objects_that_are_there(bucket, tmp_path):
    for k in range(2):
        with PartitionedWriter(bucket, spool=tmp_path / str(k)) as writer:
            writer.write([exchange(k, ts_ns=START_NS)])
    assert [Path(f.name).name for f in TrafficSource.open([bucket]).traffic_files] == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]


@pytest.mark.parametrize("local", [True, False])
def test_a_selection_reads_only_the_model_and_the_time(bucket, tmp_path, local):
    out = tmp_path / "t" if local else bucket
    exchanges = recorded(40, models=("flights", "a/b=c"))
    with PartitionedWriter(out, spool=tmp_path / "spool") as writer:
        writer.write(exchanges)
    since, until = START_NS + 5 * HOUR_NS + 1, START_NS + 8 * HOUR_NS
    selection = TrafficSelection(model="a/b=c", since_ns=since, until_ns=until)
    source = TrafficSource.open([out], selection)
    assert len(source.traffic_files) == 3  # hours 5, 6 and 7 of one model
    assert sorted(source.exchanges(), key=lambda e: e.ts_ns) == [
        e for e in exchanges if e.model == "a/b=c" and since <= e.ts_ns < until
    ]


def test_hours_have_two_digits_and_those_of_one_are_read(tmp_path):
    hours = [exchange(i, ts_ns=START_NS + i * HOUR_NS, model="flights") for i in (7, 8, 12)]
    with PartitionedWriter(tmp_path) as writer:
        writer.write(hours)
    day = tmp_path / "model=flights" / "date=2013-07-01"
    assert sorted(p.name for p in day.iterdir()) == ["hour=07", "hour=08", "hour=12"]
    assert list(TrafficSource.open([tmp_path]).exchanges()) == hours
    (day / "hour=07").rename(day / "hour=7")
    for name in ("hour=7", "hour=07"):
        assert (
            partition_of(PurePosixPath(f"model=flights/date=2013-07-01/{name}/x.parquet"))["hour"]
            == 7
        )
    asked = TrafficSelection(since_ns=START_NS + 7 * HOUR_NS, until_ns=START_NS + 8 * HOUR_NS)
    source = TrafficSource.open([tmp_path], asked)
    assert len(source.traffic_files) == 1
    assert list(source.exchanges()) == hours[:1]


def test_a_selection_of_nothing_is_an_error_and_no_empty_pass(tmp_path):
    with PartitionedWriter(tmp_path) as writer:
        writer.write(recorded(3))
    with pytest.raises(TrafficError, match="no file may hold the model and the time"):
        TrafficSource.open([tmp_path], TrafficSelection(model="other"))


def test_a_file_without_partitions_is_chosen_by_its_rows(tmp_path):
    with PartitionedWriter(tmp_path) as writer:
        writer.write(recorded(8))
    (tmp_path / "flat").mkdir()
    for file in sorted(tmp_path.glob("model=*/**/*.parquet")):
        file.rename(tmp_path / "flat" / f"{file.parent.name}.parquet")
    chosen = TrafficSource.open([tmp_path], TrafficSelection(since_ns=START_NS + HOUR_NS))
    assert len(list(chosen.exchanges())) == 4


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.integers(0, 2**62),
)
def test_partitions_are_read_as_they_were_named(model, ts_ns):
    folder = partition_folder(model, ts_ns)
    found = partition_of(folder / "x.parquet")
    assert (found["model"] or "") == model
    assert len(folder.parts) == 3
    start = TrafficSelection(since_ns=ts_ns, until_ns=ts_ns + 1, model=model)
    assert start.may_hold(folder / "x.parquet")
    assert not TrafficSelection(since_ns=ts_ns + HOUR_NS).may_hold(folder / "x.parquet")


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4),
    st.integers(60, 2000),
)
def test_a_long_model_name_has_a_folder_that_a_file_system_takes(text, times):
    model = text * times
    folder = partition_folder(model, 0)
    assert len(folder.parts[0].encode()) <= 200
    assert folder != partition_folder(model + "x", 0)
    assert TrafficSelection(model=model).may_hold(folder / "x.parquet")
    assert not TrafficSelection(model=model + "x").may_hold(folder / "x.parquet")


def test_traffic_of_a_long_model_name_is_written_and_chosen_by_it(tmp_path):
    exchanges = [dataclasses.replace(e, model="ü" * 400) for e in recorded(3)]
    with PartitionedWriter(tmp_path) as writer:
        writer.write(exchanges)
    chosen = TrafficSource.open([tmp_path], TrafficSelection(model="ü" * 400))
    assert sorted(chosen.exchanges(), key=lambda e: e.ts_ns) == exchanges


def test_folders_of_other_meaning_do_not_hide_files():
    assert partition_of(PurePosixPath("date=yesterday/x.parquet")) == {}


@given(
    st.from_regex(r"[a-z][a-z0-9-]{2,20}", fullmatch=True),
    st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), max_size=12),
    st.sampled_from(["", "http://127.0.0.1:9000", "https://store.example"]),
    st.sampled_from(["", "eu-west-1"]),
    st.booleans(),
)
def test_addresses_are_read_as_they_were_written(name, key, endpoint, region, anonymous):
    key = "" if key in {".", ".."} else key
    place = ObjectPlace(bucket=name, key=key, endpoint=endpoint, region=region, anonymous=anonymous)
    assert place_from_text(str(place)) == place


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("gs://bucket/x", "no place this can read"),
        ("s3://", "needs a bucket"),
        ("s3://key:secret@bucket/x", "neither credentials"),
        ("s3://b/x?endpont=http://h", "did you mean 'endpoint'"),
        ("s3://b/x?endpoint=h:9000", "no http:// or https://"),
        ("s3://b/x?anonymous=1", "anonymous is '1'"),
    ],
)
def test_wrong_addresses_say_what_is_wrong(text, what):
    with pytest.raises(UsageError, match=what) as error:
        place_from_text(text)
    assert "secret" not in str(error.value)


def test_a_missing_bucket_is_named(bucket):
    with pytest.raises(TrafficError, match=r"no bucket of that name|no such bucket"):
        TrafficSource.open([dataclasses.replace(bucket, bucket="is-not-there")])


def test_an_empty_prefix_is_named(bucket):
    with pytest.raises(TrafficError, match=r"no \.parquet file of recorded exchanges"):
        TrafficSource.open([bucket / "nothing"])


def test_missing_credentials_are_named(bucket, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(TrafficError, match=r"no credentials.*AWS_ACCESS_KEY_ID"):
        TrafficSource.open([bucket])


def test_an_unreachable_store_is_named(bucket):
    place = dataclasses.replace(bucket, endpoint="http://127.0.0.1:9")
    with pytest.raises(TrafficError, match="cannot be reached"):
        TrafficSource.open([place])


def test_a_damaged_object_is_named(bucket, tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1 half a file")
    move(tmp_path / "x.parquet", bucket / "t" / "x.parquet")
    with pytest.raises(TrafficError, match=r"t/x\.parquet.*cannot be read as Parquet"):
        TrafficSource.open([bucket / "t"])


def test_a_private_authority_is_trusted_when_it_is_named_only(tmp_path, bucket, monkeypatch):
    certificate, key = self_signed(tmp_path)
    with served("-c", str(certificate), "-k", str(key), scheme="https") as endpoint:
        place = dataclasses.replace(bucket, endpoint=endpoint)
        with pytest.raises(TrafficError, match="certificate cannot be trusted"):
            TrafficSource.open([place])
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        with pytest.raises(TrafficError, match=r"no bucket of that name|no such bucket"):
            TrafficSource.open([place])
