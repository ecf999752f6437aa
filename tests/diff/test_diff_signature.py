import pytest

from harness.core.errors import SignatureError
from harness.core.policies import Mapping
from harness.core.tensors import Signature, TensorSpec
from harness.diff.signature import check_signatures


def spec(name, datatype="FP32", shape=()):
    return TensorSpec(name=name, datatype=datatype, shape=shape)


OUTPUTS = (spec("probability"), spec("label", "INT64"))


def signature(inputs, outputs=OUTPUTS):
    return Signature(inputs=tuple(inputs), outputs=tuple(outputs))


BASELINE = signature([spec("carrier", "BYTES"), spec("distance_miles")])


def refused(baseline, candidate, mapping=None):
    with pytest.raises(SignatureError) as error:
        check_signatures(baseline, candidate, mapping or Mapping())
    return str(error.value)


def test_equal_signatures_match_by_name_in_any_order():
    match = check_signatures(BASELINE, signature(BASELINE.inputs[::-1]), Mapping())
    assert match.inputs == (("carrier", "carrier"), ("distance_miles", "distance_miles"))


def test_a_mapping_bridges_other_names():
    candidate = signature([spec("carrier", "BYTES"), spec("distance")])
    mapping = Mapping(inputs=(("distance_miles", "distance"),))
    assert check_signatures(BASELINE, candidate, mapping).inputs[1] == (
        "distance_miles",
        "distance",
    )


def test_a_renamed_input_is_refused_with_the_mapping_that_would_bridge_it():
    message = refused(BASELINE, signature([spec("carrier", "BYTES"), spec("distance")]))
    assert "inputs: {distance_miles: distance}" in message
    assert "Names are not all" not in message


def test_the_message_shows_both_signatures_side_by_side():
    message = refused(BASELINE, signature([spec("carrier", "BYTES"), spec("distance")]))
    assert any(
        "distance_miles FP32[?]" in line and "distance FP32[?]" in line
        for line in message.splitlines()[1:]
    )


def test_a_missing_input_is_refused_by_name():
    message = refused(BASELINE, signature([spec("carrier", "BYTES")]))
    assert "input distance_miles FP32[?] is missing from the candidate" in message
    assert "mapping:" not in message


def test_a_suggested_renaming_says_what_it_does_not_settle():
    baseline = signature([*BASELINE.inputs, spec("temp")])
    message = refused(baseline, signature([spec("carrier", "BYTES"), spec("distance")]))
    assert "inputs: {distance_miles: distance}" in message
    assert "input temp stays without a partner" in message


@pytest.mark.parametrize(
    "other",
    [spec("distance_miles", "FP64"), spec("distance_miles", "FP32", (3,))],
)
def test_another_type_or_shape_is_refused(other):
    message = refused(BASELINE, signature([spec("carrier", "BYTES"), other]))
    assert f"is {other.shown()} in the candidate" in message


def test_a_free_dimension_fits_a_fixed_one():
    baseline = signature([spec("x", shape=(None,))])
    assert check_signatures(baseline, signature([spec("x", shape=(3,))]), Mapping()).inputs


def test_an_extra_candidate_input_is_refused():
    candidate = signature([*BASELINE.inputs, spec("temp")])
    assert "only the candidate's" in refused(BASELINE, candidate)


def test_an_extra_candidate_output_is_listed():
    candidate = signature(BASELINE.inputs, [*BASELINE.outputs, spec("logit")])
    assert check_signatures(BASELINE, candidate, Mapping()).extra_outputs == ("logit",)


def test_a_missing_output_is_refused():
    message = refused(BASELINE, signature(BASELINE.inputs, [spec("probability")]))
    assert "output label INT64[?] is missing" in message


def test_a_map_compares_only_with_a_map():
    maps = signature(BASELINE.inputs, [spec("scores", "MAP")])
    assert check_signatures(maps, maps, Mapping()).outputs == (("scores", "scores"),)
    assert "scores MAP[?]" in refused(maps, signature(BASELINE.inputs, [spec("scores")]))


def test_outputs_of_other_kinds_are_listed_as_not_compared():
    odd = signature(BASELINE.inputs, [spec("probability"), spec("steps", "OTHER:seq(tensor)")])
    match = check_signatures(odd, odd, Mapping())
    assert match.outputs == (("probability", "probability"),)
    assert match.not_compared == ("steps",)


@pytest.mark.parametrize("pair", [("distance_mile", "x"), ("distance_miles", "distanc")])
def test_a_mapping_of_unknown_names_is_refused_with_the_nearest(pair):
    candidate = signature([spec("carrier", "BYTES"), spec("distance")])
    assert "did you mean 'distance" in refused(BASELINE, candidate, Mapping(inputs=(pair,)))
