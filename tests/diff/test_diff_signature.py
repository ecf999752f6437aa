import pytest

from harness.core.errors import SignatureError
from harness.core.policies import Mapping
from harness.core.tensors import Signature, TensorSpec
from harness.diff.signature import check_signatures, declared_by_either


def spec(name, datatype="FP32", shape=()):
    return TensorSpec(name=name, datatype=datatype, shape=shape)


WORDS = "MAP:seq(map(string,tensor(float)))"
NUMBERS = "MAP:seq(map(int64,tensor(float)))"
OUTPUTS = (spec("probability"), spec("label", "INT64"))


def signature(inputs, outputs=OUTPUTS, **rows):
    return Signature(inputs=tuple(inputs), outputs=tuple(outputs), rows=tuple(rows.items()))


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


X = spec("x", shape=(None,))
X3 = spec("x", shape=(3,))


@pytest.mark.parametrize(
    ("baseline", "candidate", "shown"),
    [
        (signature([X]), signature([X3]), "x FP32[?, ?] is x FP32[?, 3]"),
        (signature([X3]), signature([X3], x=1), "x FP32[?, 3] is x FP32[1, 3]"),
        (signature([X], x=2), signature([X3], x=2), "x FP32[2, ?] is x FP32[2, 3]"),
    ],
)
def test_a_candidate_that_takes_fewer_lengths_is_refused_unless_the_mapping_accepts_it(
    baseline, candidate, shown
):
    message = refused(baseline, candidate)
    assert f"input {shown} in the candidate, which takes no other lengths" in message
    assert "  narrower: [x]" in message
    accepted = check_signatures(baseline, candidate, Mapping(narrower=("x",)))
    assert accepted.inputs == (("x", "x"),)
    assert [shown in words for words in accepted.narrower] == [True]


@pytest.mark.parametrize(
    ("baseline", "candidate"),
    [
        (signature([X3]), signature([X])),
        (signature([X3], x=1), signature([X3])),
        (signature([X3], x=1), signature([X3], x=1)),
    ],
)
def test_a_candidate_that_takes_the_same_lengths_or_more_is_taken(baseline, candidate):
    match = check_signatures(baseline, candidate, Mapping())
    assert (match.inputs, match.narrower) == ((("x", "x"),), ())


def test_an_output_may_be_declared_with_fewer_or_more_lengths():
    free, fixed = (signature(BASELINE.inputs, [s]) for s in (X, X3))
    assert check_signatures(free, fixed, Mapping()).outputs
    assert check_signatures(fixed, free, Mapping()).outputs


def test_other_numbers_of_rows_are_no_matter_of_a_mapping():
    message = refused(signature([X3], x=1), signature([X3], x=2), Mapping(narrower=("x",)))
    assert "input x FP32[1, 3] is x FP32[2, 3] in the candidate" in message
    assert "mapping:" not in message


def test_a_renamed_input_of_fewer_lengths_is_refused_with_both_lines_of_the_mapping():
    message = refused(signature([X]), signature([spec("z", shape=(3,))], z=1))
    assert "  inputs: {x: z}\n  narrower: [x]" in message
    mapping = Mapping(inputs=(("x", "z"),), narrower=("x",))
    assert check_signatures(
        signature([X]), signature([spec("z", shape=(3,))], z=1), mapping
    ).narrower


def test_narrower_names_an_input_of_the_baseline():
    message = refused(signature([X]), signature([X]), Mapping(narrower=("xx",)))
    assert "mapping.narrower: the baseline has no input 'xx'" in message


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
    maps = signature(BASELINE.inputs, [spec("scores", WORDS)])
    assert check_signatures(maps, maps, Mapping()).outputs == (("scores", "scores"),)
    message = refused(maps, signature(BASELINE.inputs, [spec("scores")]))
    assert "scores seq(map(string,tensor(float))) is scores FP32[?]" in message


def test_a_map_of_numbers_is_no_map_of_words():
    words, numbers = (signature(BASELINE.inputs, [spec("y", kind)]) for kind in (WORDS, NUMBERS))
    assert check_signatures(numbers, numbers, Mapping()).outputs == (("y", "y"),)
    message = refused(numbers, words, Mapping(outputs=(("y", "y"),)))
    assert (
        "y seq(map(int64,tensor(float))) is y seq(map(string,tensor(float))) in the candidate"
        in message
    )


def test_outputs_of_other_kinds_are_listed_as_not_compared():
    odd = signature(BASELINE.inputs, [spec("probability"), spec("steps", "OTHER:seq(tensor)")])
    match = check_signatures(odd, odd, Mapping())
    assert match.outputs == (("probability", "probability"),)
    assert match.not_compared == ("steps",)


@pytest.mark.parametrize("pair", [("distance_mile", "x"), ("distance_miles", "distanc")])
def test_a_mapping_of_unknown_names_is_refused_with_the_nearest(pair):
    candidate = signature([spec("carrier", "BYTES"), spec("distance")])
    assert "did you mean 'distance" in refused(BASELINE, candidate, Mapping(inputs=(pair,)))


ANY = TensorSpec(name="x", datatype="FP32", shape=(), any_rank=True)


def test_an_undeclared_rank_fits_any_and_is_told_where_only_the_candidate_declares_one():
    declared, both = signature([spec("x", shape=(None, 4))], [ANY]), signature([ANY], [ANY])
    assert check_signatures(both, both, Mapping()).one_rank == ()
    assert check_signatures(declared, both, Mapping()).one_rank == ()
    (told,) = check_signatures(both, declared, Mapping()).one_rank
    assert "input x FP32[any rank] is x FP32[?, ?, 4] in the candidate" in told


def test_of_an_undeclared_rank_type_and_fixed_rows_are_held_to_the_baseline():
    both = signature([ANY], [ANY])
    assert "FP64" in refused(both, signature([spec("x", "FP64", (4,))], [ANY]))
    fixed = signature([spec("x", shape=(4,))], [ANY], x=8)
    assert "narrower: [x]" in refused(both, fixed)
    assert check_signatures(fixed, both, Mapping()).narrower == ()


def test_the_axes_of_an_input_are_those_of_the_version_that_declares_some():
    baseline, candidate = (
        signature([ANY, spec("z", shape=(2,))]),
        signature([spec("w", shape=(4,)), ANY]),
    )
    mapping = Mapping(inputs=(("x", "w"),))
    assert declared_by_either(baseline, candidate, mapping).inputs == (
        spec("x", shape=(4,)),
        spec("z", shape=(2,)),
    )
    assert declared_by_either(baseline, baseline, Mapping()) == baseline


def test_the_rows_of_a_batch_are_those_of_the_version_that_takes_no_others():
    free, fixed = signature([spec("x"), spec("z")]), signature([spec("w"), spec("z")], w=8)
    mapping = Mapping(inputs=(("x", "w"),), narrower=("x",))
    assert declared_by_either(free, fixed, mapping).rows == (("x", 8),)
    back = Mapping(inputs=(("w", "x"),))
    assert declared_by_either(fixed, free, back).rows == (("w", 8),)
    assert declared_by_either(free, free, Mapping()).batch_rows == 0
