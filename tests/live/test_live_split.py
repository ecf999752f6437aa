"""The split: sticky, seeded, as large as declared, and only ever growing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, kstest

from harness.core.live import UnitIn
from harness.live.split import Split, name_of
from harness.live.unit_key import unit_of
from harness.wire.gen import open_inference_pb2 as pb
from harness.wire.messages import request_bytes


@given(st.text(), st.text(min_size=1))
def test_a_unit_stands_where_it_stood(seed, unit):
    assert Split(seed).place(unit) == Split(seed).place(unit)
    assert 0.0 <= Split(seed).place(unit).draw < 1.0


def test_units_fall_to_the_candidate_as_often_as_declared():
    split = Split("s")
    draws = [split.place(f"user-{i}").draw for i in range(20_000)]
    assert kstest(draws, "uniform").pvalue > 1e-4
    for share in (0.01, 0.25):
        found = sum(draw < share for draw in draws)
        assert binom.ppf(1e-4, 20_000, share) <= found <= binom.ppf(1 - 1e-4, 20_000, share)


def test_another_seed_is_another_draw_and_names_tell_nothing():
    one, two = Split("one"), Split("two")
    agree = sum(
        (one.place(f"u{i}").draw < 0.5) == (two.place(f"u{i}").draw < 0.5) for i in range(2_000)
    )
    assert binom.ppf(1e-4, 2_000, 0.5) <= agree <= binom.ppf(1 - 1e-4, 2_000, 0.5)
    assert one.place("u1").unit != two.place("u1").unit
    assert len(name_of(3)) == 16


REQUEST = pb.ModelInferRequest.FromString(
    request_bytes("m", {"user": __import__("numpy").array(["ann"], object)}, "1")
)
REQUEST.parameters["session"].int64_param = 7


@pytest.mark.parametrize(
    ("name", "place", "found"),
    [
        ("x-user", UnitIn.METADATA, "u1"),
        ("X-User", UnitIn.METADATA, "u1"),
        ("x-bin", UnitIn.METADATA, "00ff"),
        ("x-none", UnitIn.METADATA, None),
        ("session", UnitIn.PARAMETER, "7"),
        ("none", UnitIn.PARAMETER, None),
        ("user", UnitIn.INPUT, "ann"),
        ("none", UnitIn.INPUT, None),
        ("", UnitIn.METADATA, ""),
    ],
)
def test_a_request_names_its_unit_where_the_policy_says(name, place, found):
    metadata = (("x-user", "u1"), ("x-bin", b"\x00\xff"))
    assert unit_of(name, place, REQUEST.SerializeToString(), metadata) == found


@pytest.mark.parametrize("place", [UnitIn.PARAMETER, UnitIn.INPUT])
def test_a_request_that_cannot_be_read_names_no_unit(place):
    assert unit_of("user", place, b"\xff\xff\xff", ()) is None


def test_an_input_of_several_values_is_no_unit():
    import numpy as np

    request = request_bytes("m", {"user": np.array([1, 2])}, "1")
    assert unit_of("user", UnitIn.INPUT, request, ()) is None
