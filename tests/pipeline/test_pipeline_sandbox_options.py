"""Limits of a comparison's processes, as the command line gives them."""

import pytest

from harness.core.errors import UsageError
from harness.core.policies import SandboxPolicy
from harness.pipeline.sandbox_options import sandbox_from_options


def test_a_later_option_goes_before_an_earlier_one_and_the_rest_stays(tmp_path):
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\npreset: refactor\nsandbox: {memory: 1GiB, load_deadline: 20s}\n")
    found = sandbox_from_options([str(policy), "memory=3GiB", "batch_deadline=500ms"])
    assert found == SandboxPolicy(memory_bytes=3 << 30, load_deadline_s=20.0, batch_deadline_s=0.5)
    assert sandbox_from_options([]) == SandboxPolicy()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("memory=4", "'4' is no size"),
        ("memory=1MiB", "too little for any process"),
        ("memory=1GiB\nrequire: S0", "is no size"),
        ("memroy=1GiB", "Did you mean 'memory'?"),
        ("memory=", "is no file, and not KEY=VALUE"),
        ("nothing.yaml", "is no file, and not KEY=VALUE"),
        ("require=S9", "no isolation tier"),
        ("batch_deadline=30", "no duration"),
        ("memory=99999999999999999999GiB", "is no size"),
        ("x" * 5000, "is no file"),
        ("\0", "is no file"),
    ],
)
def test_an_option_that_is_none_is_refused_with_a_remedy(option, said):
    with pytest.raises(UsageError) as caught:
        sandbox_from_options([option])
    assert said in f"{caught.value.what} {caught.value.remedy}"
    assert caught.value.where.startswith("--sandbox")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "is missing"),
        ("version: 1", "is missing"),
        ("sandbox: 3", "needs keys and values"),
        ("", "is empty"),
        ("sandbox: {memory: 1GiB, memory: 2GiB}", "given twice"),
    ],
)
def test_a_file_without_limits_is_refused(text, said, tmp_path):
    (tmp_path / "limits.yaml").write_text(text)
    with pytest.raises(UsageError, match=said):
        sandbox_from_options([str(tmp_path / "limits.yaml")])
