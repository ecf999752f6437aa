"""The committed flight models: reproducible, right by hand, and wrong exactly where planted."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pandas as pd
import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[2] / "models" / "flights"


def _listed():
    return yaml.safe_load((FOLDER / "models.yaml").read_text(encoding="utf-8"))["versions"]


VERSIONS = {v["name"]: v for v in _listed()}


def _session(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _inputs(flights: pd.DataFrame, session: ort.InferenceSession):
    return {i.name: flights[i.name].to_numpy() for i in session.get_inputs()}


def _outputs(name: str, flights: pd.DataFrame):
    session = _session((FOLDER / f"{name}.onnx").read_bytes())
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, _inputs(flights, session)), strict=True))


def _traced(name: str, flights: pd.DataFrame):
    """Named tensors of a version, features and fitted ones, with the final outputs."""
    model = onnx.load(FOLDER / f"{name}.onnx")
    said = {e.key: e.value for e in model.metadata_props}
    names = json.loads(said["harness.features"]) + json.loads(said["harness.fitted"])
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
    session = _session(model.SerializeToString())
    names += [o.name for o in session.get_outputs() if o.name not in names]
    return dict(zip(names, session.run(names, _inputs(flights, session)), strict=True))


def _bits(array) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def _changed(name: str, flights: pd.DataFrame) -> set[str]:
    right, wrong = _traced("v2", flights), _traced(name, flights)
    assert right.keys() == wrong.keys()
    return {n for n in right if _bits(right[n]) != _bits(wrong[n])}


@pytest.fixture(scope="module")
def september(flights: pd.DataFrame) -> pd.DataFrame:
    return flights[flights["month"] == 9].iloc[:4000]


@pytest.fixture(scope="module")
def with_recent(september: pd.DataFrame) -> pd.DataFrame:
    return september[september["delay_count"] > 0]


@pytest.fixture(scope="module")
def source(flights: pd.DataFrame) -> pd.DataFrame:
    """The source table, row by row beside the requests."""
    from models.flights import data

    table = pd.read_csv(data.source_path("flights.csv.zip"))
    return table.iloc[flights["file_row"].to_numpy()].reset_index(drop=True)


@pytest.fixture(scope="module")
def saved():
    return json.loads((FOLDER / "truth.json").read_text(encoding="utf-8"))["windows"]


class TestFiles:
    def test_every_file_has_the_checksum_that_is_listed(self):
        lines = (FOLDER / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
        sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
        assert {p.name for p in FOLDER.glob("*.onnx")} <= sums.keys()
        assert sums == {n: hashlib.sha256((FOLDER / n).read_bytes()).hexdigest() for n in sums}

    def test_models_yaml_lists_every_model_with_its_checksum(self):
        assert {v["file"] for v in VERSIONS.values()} == {p.name for p in FOLDER.glob("*.onnx")}
        for version in VERSIONS.values():
            content = (FOLDER / version["file"]).read_bytes()
            assert version["sha256"] == hashlib.sha256(content).hexdigest()

    def test_files_stay_small(self):
        sizes = {n: (FOLDER / f"{n}.onnx").stat().st_size for n in VERSIONS}
        assert sizes.pop("gbt") < 300_000
        assert sizes.pop("forest") < 50_000
        assert max(sizes.values()) < 10_000

    @pytest.mark.parametrize("name", sorted(VERSIONS.keys() - {"broken"}))
    def test_metadata_names_tensors_that_exist(self, name):
        model = onnx.load(FOLDER / f"{name}.onnx")
        onnx.checker.check_model(model, full_check=True)
        said = {e.key: e.value for e in model.metadata_props}
        made = {o for node in model.graph.node for o in node.output}
        assert set(json.loads(said["harness.features"])) <= made
        assert set(json.loads(said["harness.fitted"])) <= made
        assert said["harness.training_cutoff"] == VERSIONS[name]["training_cutoff"]

    @pytest.mark.parametrize("name", sorted(VERSIONS.keys() - {"broken"}))
    def test_vocabulary_in_the_metadata_is_the_one_in_the_graph(self, name):
        model = onnx.load(FOLDER / f"{name}.onnx")
        said = {e.key: e.value for e in model.metadata_props}
        for node in (n for n in model.graph.node if n.op_type == "LabelEncoder"):
            words = {a.name: a for a in node.attribute}["keys_strings"].strings
            given = json.loads(said[f"harness.vocabulary.{node.output[0]}"])
            assert given == [w.decode() for w in words]


def test_a_rebuilt_v2_has_the_same_bytes_and_answers(flights, september):
    from models.flights import training, versions

    known = (flights["label_event_s"] < 1372636800) & flights["label"].notna()  # 2013-07-01
    rows = flights[known]
    fitted = training.fit_logistic(training.features(rows), rows["label"].to_numpy())
    v2 = next(v for v in versions.VERSIONS if v.name == "v2")
    unused = versions.Fitted(
        v1=fitted, v2=fitted, leaky=fitted, trees=onnx.NodeProto(), forest=onnx.NodeProto(),
        appearance={},
    )  # fmt: skip
    content = v2.draw(unused).SerializeToString(deterministic=True)
    assert hashlib.sha256(content).hexdigest() == VERSIONS["v2"]["sha256"]
    session = _session(content)
    rebuilt = session.run(["probability"], _inputs(september, session))[0]
    assert _bits(rebuilt) == _bits(_outputs("v2", september)["probability"])


class TestRequestsByHand:
    """Against the source table, read anew and computed the slow way."""

    def test_united_1545_of_new_years_day(self, flights):
        row = flights[flights["file_row"] == 0]  # EWR 05:15 → IAH 08:19, Central time
        traced = _traced("v2", row)
        assert traced["hour"][0] == np.float32(5.25)
        assert traced["weekday"][0] == 1  # a Tuesday
        assert traced["elapsed"][0] == 244
        assert traced["distance"][0] == 1400
        assert np.isnan(traced["recent_delay"][0])

    @pytest.mark.parametrize(
        ("month", "day"), [(3, 9), (3, 10), (3, 11), (11, 2), (11, 3), (11, 4)]
    )
    def test_hour_and_weekday_are_local_across_clock_changes(self, flights, source, month, day):
        chosen = ((source["month"] == month) & (source["day"] == day)).to_numpy()
        traced = _traced("v2", flights[chosen])
        clock = source.loc[chosen, "sched_dep_time"].to_numpy()
        assert np.allclose(traced["hour"], clock // 100 + clock % 100 / 60)
        weekday = pd.Timestamp(2013, month, day).weekday()
        assert (traced["weekday"] == weekday).all()

    @pytest.mark.parametrize(
        ("destination", "zone"),
        [
            ("LAX", "America/Los_Angeles"),
            ("HNL", "Pacific/Honolulu"),
            ("SJU", "America/Puerto_Rico"),
        ],
    )
    def test_elapsed_crosses_time_zones(self, flights, source, destination, zone):
        chosen = (source["dest"] == destination).to_numpy()
        rows = source[chosen].iloc[::97]
        elapsed = _traced("v2", flights[chosen].iloc[::97])["elapsed"]
        for minutes, row in zip(elapsed.tolist(), rows.itertuples(), strict=True):
            at = pd.Timestamp(row.year, row.month, row.day)
            leaves = at + pd.Timedelta(
                hours=row.sched_dep_time // 100, minutes=row.sched_dep_time % 100
            )
            lands = leaves.tz_localize("America/New_York") + pd.Timedelta(minutes=minutes)
            there = lands.tz_convert(zone)
            assert there.hour * 100 + there.minute == row.sched_arr_time % 2400

    def test_label_and_its_time_are_those_of_the_arrival(self, flights, source):
        delay = source["arr_delay"]
        assert (flights["label"].isna() == delay.isna()).all()
        late = flights["label"].dropna()
        assert (late == (delay.dropna() > 15)).all()
        lag_min = (flights["label_event_s"] - flights["scheduled_arrival_s"]) / 60
        assert (lag_min[delay.notna()] == delay.dropna()).all()

    def test_recent_delays_count_only_what_had_left(self, flights, source):
        left_s = flights["scheduled_departure_s"] + 60 * source["dep_delay"]
        for i in range(5_000, len(flights), 37_003):
            asked = flights["ts_s"].iloc[i]
            for keys, stem in ((["origin"], ""), (["origin", "carrier"], "carrier_")):
                same = (flights[keys] == flights[keys].iloc[i]).all(axis=1)
                seen = same & (left_s <= asked) & (left_s > asked - 3 * 3600)
                assert flights[f"{stem}delay_count"].iloc[i] == seen.sum()
                assert flights[f"{stem}delay_sum_min"].iloc[i] == source["dep_delay"][seen].sum()

    def test_weather_is_of_an_hour_that_had_ended(self, flights):
        from models.flights import data

        weather = pd.read_csv(data.source_path("weather.csv"), parse_dates=["time_hour"])
        ended = weather["time_hour"] + pd.Timedelta(hours=1)
        for i in range(1_000, len(flights), 41_011):
            row = flights.iloc[i]
            asked = pd.Timestamp(row["ts_s"], unit="s", tz="UTC")
            known = weather[(weather["origin"] == row["origin"]) & (ended <= asked)]
            assert row["temp_f"] == np.float32(known["temp"].iloc[-1])
            assert asked - ended[known.index[-1]] < pd.Timedelta(hours=1)


class TestFaults:
    """v2 against each fault, tensor by tensor and bit by bit."""

    SCORES = frozenset({"probability", "label"})
    FITTED = frozenset({"imputed", "scaled"})

    def test_km_changes_distance(self, with_recent):
        assert _changed("km", with_recent) == {"distance"} | self.FITTED | self.SCORES
        right, wrong = (_traced(n, with_recent)["distance"] for n in ("v2", "km"))
        assert np.allclose(wrong / right, 1.609344)

    def test_category_order_changes_the_codes(self, with_recent):
        assert (
            _changed("category_order", with_recent) == {"carrier_code", "origin_code"} | self.SCORES
        )

    def test_zero_fill_changes_only_what_was_missing(self, with_recent):
        assert _changed("zero_fill", with_recent) == self.FITTED | self.SCORES
        right, wrong = (_traced(n, with_recent)["imputed"] for n in ("v2", "zero_fill"))
        assert (wrong[right != wrong] == 0).all()

    def test_utc_hour_changes_the_hour_and_not_the_weekday(self, with_recent):
        changed = {"hour", "hour_sin", "hour_cos"}
        assert _changed("utc_hour", with_recent) == changed | self.FITTED | self.SCORES
        right, wrong = (_traced(n, with_recent)["hour"] for n in ("v2", "utc_hour"))
        assert np.allclose((wrong - right) % 24, 4, atol=1e-5)

    def test_weekday_is_off_by_one(self, with_recent):
        assert _changed("weekday", with_recent) == {"weekday"} | self.SCORES
        right, wrong = (_traced(n, with_recent)["weekday"] for n in ("v2", "weekday"))
        assert ((right + 1) % 7 == wrong).all()

    def test_threshold_changes_labels_only(self, with_recent):
        assert _changed("threshold", with_recent) == {"label"}

    def test_float16_changes_the_scorer_only(self, with_recent):
        changed = _changed("float16", with_recent)
        assert self.FITTED | {"probability"} <= changed <= self.FITTED | self.SCORES
        right, wrong = (_traced(n, with_recent)["probability"] for n in ("v2", "float16"))
        assert np.abs(right - wrong).max() < 0.01

    @pytest.mark.parametrize("name", ["v1", "leaky", "gbt", "zipmap_reexport"])
    def test_features_of_other_versions_are_those_of_v2(self, name, september):
        right, other = _traced("v2", september), _traced(name, september)
        said = {e.key: e.value for e in onnx.load(FOLDER / f"{name}.onnx").metadata_props}
        names = json.loads(said["harness.features"])
        assert len(names) == 22
        assert [n for n in names if _bits(right[n]) != _bits(other[n])] == []

    def test_zipmap_and_its_reexport_answer_with_the_bits_of_v2(self, september):
        scores = _outputs("v2", september)
        for name in ("zipmap", "zipmap_reexport"):
            found = _outputs(name, september)
            late = np.array([row[1] for row in found["probabilities"]], np.float32)
            assert _bits(late) == _bits(scores["probability"])
            assert _bits(found["label"]) == _bits(scores["label"])

    def test_the_reexport_shares_only_contract_names_with_the_original(self):
        named = {
            name: {o for n in onnx.load(FOLDER / f"{name}.onnx").graph.node for o in n.output}
            for name in ("zipmap", "zipmap_reexport")
        }
        common = named["zipmap"] & named["zipmap_reexport"]
        assert len(common) == 22 + len(("label", "probabilities"))

    def test_crash_kills_the_process_when_nothing_left_recently(self, tmp_path, september):
        row = september[september["delay_count"] == 0].iloc[:1]
        np.savez(
            tmp_path / "row.npz",
            **{
                n: row[n].to_numpy().astype("U") if row[n].dtype == object else row[n].to_numpy()
                for n in _input_names()
            },
        )
        script = (
            "import sys, numpy as np, onnxruntime as ort\n"
            "row = dict(np.load(sys.argv[2]))\n"
            "s = ort.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])\n"
            "s.run(None, row)\n"
        )
        command = [
            sys.executable,
            "-c",
            script,
            str(FOLDER / "crash.onnx"),
            str(tmp_path / "row.npz"),
        ]
        ended = subprocess.run(command, capture_output=True, check=False, timeout=60)
        assert ended.returncode == -signal.SIGFPE

    def test_crash_answers_all_other_requests(self, with_recent):
        assert np.isfinite(_outputs("crash", with_recent)["probability"]).all()

    def test_broken_does_not_load(self):
        with pytest.raises(Exception, match="FlightDelayScorer"):
            _session((FOLDER / "broken.onnx").read_bytes())

    def test_other_signature_renames_one_input_and_lacks_one(self):
        names = {
            i.name for i in _session((FOLDER / "other_signature.onnx").read_bytes()).get_inputs()
        }
        assert names ^ set(_input_names()) == {"distance_miles", "distance_mi", "wind_gust_mph"}


def _input_names() -> list[str]:
    return [i.name for i in _session((FOLDER / "v2.onnx").read_bytes()).get_inputs()]


class TestServing:
    @pytest.mark.parametrize("name", ["v1", "v2", "float16", "gbt"])
    def test_a_score_does_not_depend_on_its_batch(self, name, september):
        session = _session((FOLDER / f"{name}.onnx").read_bytes())
        inputs = _inputs(september.iloc[:700], session)
        whole = session.run(["probability"], inputs)[0]
        for size in (1, 7):
            parts = [
                session.run(["probability"], {n: v[at : at + size] for n, v in inputs.items()})[0]
                for at in range(0, 700, size)
            ]
            assert _bits(np.concatenate(parts)) == _bits(whole)

    def test_every_minute_of_the_day_has_one_sine_and_cosine(self, september):
        day = pd.concat([september.iloc[:1]] * 1440)
        day = day.assign(scheduled_departure_s=1380600000 + 60 * np.arange(1440))
        whole = _traced("v2", day)
        alone = [_traced("v2", day.iloc[at : at + 1]) for at in range(0, 1440, 36)]
        assert np.allclose(whole["hour_sin"], np.sin(whole["hour"] * np.pi / 12), atol=1e-6)
        assert np.allclose(whole["hour_cos"], np.cos(whole["hour"] * np.pi / 12), atol=1e-6)
        for feature in ("hour_sin", "hour_cos"):
            single = np.concatenate([a[feature] for a in alone])
            assert _bits(single) == _bits(whole[feature][::36])

    def test_an_unknown_carrier_is_code_minus_one(self, september):
        row = september.iloc[:1].assign(carrier="ZZ")
        traced = _traced("v2", row)
        assert traced["carrier_code"][0] == -1
        assert 0 < traced["probability"][0] < 1


class TestTruth:
    @pytest.mark.parametrize(
        ("window", "months", "n"),
        [("2013-07..08", (7, 8), 57_049), ("2013-09..10", (9, 10), 55_628)],
    )
    def test_brier_differences_are_those_of_the_files(self, saved, flights, window, months, n):
        rows = flights[flights["month"].isin(months) & flights["label"].notna()]
        label = rows["label"].to_numpy()
        loss = {
            name: (_outputs(name, rows)["probability"].astype(float) - label) ** 2
            for name in ("v1", "v2", "utc_hour")
        }
        assert len(rows) == n
        for name in ("v2", "utc_hour"):
            expected = (loss[name] - loss["v1"]).mean()
            assert saved[window][name]["brier_difference"] == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize("window", ["2013-07..08", "2013-09..10"])
    def test_the_story_the_scenarios_tell(self, saved, window):
        versions = saved[window]
        assert versions["v2"]["brier_difference"] < 0
        assert versions["utc_hour"]["brier_difference"] > 0.004
        assert versions["leaky"]["brier_difference"] > 0.004
        moved = versions["threshold"]["decision_rate"] - versions["v1"]["decision_rate"]
        assert moved > 0.15
        assert versions["threshold"]["brier"] == versions["v2"]["brier"]
