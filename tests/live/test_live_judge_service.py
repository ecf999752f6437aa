"""CanaryJudge in a process of its own, asked by a client that is not ours: grpc and the .proto only."""

import json
import os
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
from live_peers import child, events

ROOT = Path(__file__).resolve().parents[2]
POLICY = """
version: 1
live:
  steps: [0.1, 0.5]
  unit: user
  stay: {requests: 400}
  guardrails:
    - {name: score, kind: shift, range: [0, 1], margin: 0.1, effect: 0.0, variance: 0.02}
"""
SECOND = 10**9


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """Messages as another project would make them from the .proto file."""
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "foreign_judge.proto").write_text(
        (ROOT / "protos" / "canary_judge.proto").read_text()
    )
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", f"--descriptor_set_out={folder}/set",
               "foreign_judge.proto"]  # fmt: skip
    subprocess.run(command, check=True, cwd=folder)
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    files = descriptor_pb2.FileDescriptorSet.FromString((folder / "set").read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    names = ("Observations", "Answer", "WatchRequest")
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"harness.v1.{name}"))
        for name in names
    }


class Judge:
    """A client of one judge process."""

    def __init__(self, folder, foreign, *options):
        self.out = folder / "out"
        (folder / "policy.yaml").write_text(POLICY)
        command = ["-m", "harness", "canary", "--judge-listen", "127.0.0.1:0", "--policy",
                   folder / "policy.yaml", "--out", self.out, "--look-every", "0.05", *options]  # fmt: skip
        self.messages = foreign
        self._child = child(*command)
        self.process = self._child.__enter__()
        port = self.process.line(self.process.process.stderr, "judge on port").split()[-1]
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        answer = foreign["Answer"].FromString

        def send(message):
            return message.SerializeToString()

        path = "/harness.v1.CanaryJudge"
        self.observe = self.channel.stream_stream(f"{path}/Observe", send, answer)
        self.watch = self.channel.unary_stream(f"{path}/Watch", send, answer)

    def end(self):
        self.channel.close()
        self._child.__exit__(None, None, None)

    def batch(self, rng, number, share, harm, n=100, **changes):
        start = number * 10 * SECOND
        candidate = rng.random(n) < share
        score = np.clip(rng.normal(0.3 + harm * candidate, 0.1), 0, 1)
        message = self.messages["Observations"](
            number=number, until_ns=start + 10 * SECOND, ts_ns=(start + np.arange(n)).tolist(),
            unit=[f"{number}-{i}" for i in range(n)], candidate=candidate.tolist(),
            propensity=[share] * n,
        )  # fmt: skip
        message.values["score"].value.extend(score.tolist())
        for name, value in changes.items():
            if hasattr(value, "__len__") and not isinstance(value, str):
                message.ClearField(name)
                getattr(message, name).extend(value)
            else:
                setattr(message, name, value)
        return message


@pytest.fixture
def judge(tmp_path, foreign):
    made = []

    def make(*options):
        made.append(Judge(tmp_path, foreign, *options))
        return made[-1]

    yield make
    for one in made:
        one.end()


def play(one, rng, harm, first=0, most=40):
    """Answers, as batches follow one another with the share that the last answer said."""
    share, answers = 0.1, []
    watched = one.watch(one.messages["WatchRequest"]())
    for number in range(first, most):
        (answer,) = one.observe(iter([one.batch(rng, number, share, harm)]))
        answers.append(answer)
        share = answer.share
        if answer.final:
            break
    return answers, watched


def test_a_foreign_client_is_told_when_to_roll_back_and_everybody_hears_it(judge):
    one = judge()
    answers, watched = play(one, np.random.default_rng(1), 0.3)
    assert (answers[-1].final, answers[-1].reason, answers[-1].share) == (
        True,
        "guardrail_failed",
        0.0,
    )
    assert list(watched)[-1].final
    assert [event["event"] for event in events(one.out)][-1] == "decision"
    assert one.process.stop()[0] == 1


def test_killed_and_started_again_it_goes_on_where_it_was(judge):
    one, rng = judge(), np.random.default_rng(2)
    answers, _ = play(one, rng, 0.0, most=3)
    one.process.process.kill()
    one.process.process.wait()
    other = judge()
    now = next(iter(other.watch(other.messages["WatchRequest"]())))
    assert (now.next_batch, now.units, now.closed_units) == (
        3,
        answers[-1].units,
        answers[-1].closed_units,
    )
    assert now.log_e_promote == answers[-1].log_e_promote
    answers, _ = play(other, rng, 0.0, first=3)
    assert (answers[-1].final, answers[-1].reason, answers[-1].share) == (
        True,
        "all_guardrails_pass",
        1.0,
    )
    assert other.process.stop()[0] == 0
    assert json.loads((other.out / "decision.json").read_text())["decision"] == "PROMOTE"


def test_what_cannot_be_judged_is_refused_and_leaves_no_trace(judge):
    one, rng = judge(), np.random.default_rng(3)
    good = one.batch(rng, 0, 0.1, 0.0)
    (before,) = one.observe(iter([good]))
    wrong = [
        one.batch(rng, 1, 0.1, 0.0, unit=["x"]),
        one.batch(rng, 1, 0.1, 0.0, unit=[""] * 100),
        one.batch(rng, 1, 1.5, 0.0),
        one.batch(rng, 2, 0.1, 0.0),
        one.batch(rng, 1, 0.1, 0.0, until_ns=5),
        one.batch(rng, 1, 0.1, 2.0, until_ns=2**63 - 1),
    ]
    wrong[-1].values["other"].value.extend([0.0] * 100)
    for batch in wrong:
        with pytest.raises(grpc.RpcError) as refused:
            list(one.observe(iter([batch])))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.RpcError) as refused:
        list(one.channel.stream_stream("/harness.v1.CanaryJudge/Observe")(iter([b"noise\xff"])))
    assert refused.value.details() == "these bytes are no Observations message of harness.v1"
    (again,) = one.observe(iter([good]))  # a repetition changes nothing
    assert (again.units, again.next_batch) == (before.units, 1)
    assert dict(again.counts) == {"repeated_batches": 1}
    code, shown, err = one.process.stop()
    assert (code, shown.split(":")[0], "Traceback" in err) == (3, "HOLD", False)


def test_a_share_that_is_not_in_force_is_refused_and_both_are_named(judge):
    one, rng = judge(), np.random.default_rng(5)
    for share in (0.3, 0.5):  # no step at all; a step to come
        with pytest.raises(grpc.RpcError) as refused:
            list(one.observe(iter([one.batch(rng, 0, share, 0.0)])))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert f"share of {share:g}" in refused.value.details()
        assert "in force at step 1 is 0.1" in refused.value.details()
    answers, _ = play(one, rng, 0.0, most=4)
    assert (answers[-1].share, answers[-1].units) == (0.5, 400)
    (late,) = one.observe(iter([one.batch(rng, 4, 0.1, 0.0)]))  # not yet passed on everywhere
    assert (late.units, late.next_batch) == (500, 5)


def test_a_full_disk_is_hold(judge, tmp_path):
    one, rng = judge(), np.random.default_rng(4)
    (one.out / "journal-000000000000.jsonl").unlink()
    (one.out / "journal-000000000000.jsonl").symlink_to("/dev/full")
    with pytest.raises(grpc.RpcError) as failed:
        list(one.observe(iter([one.batch(rng, 0, 0.1, 0.0)])))
    assert failed.value.code() is grpc.StatusCode.INTERNAL
    now = next(iter(one.watch(one.messages["WatchRequest"]())))
    assert (now.final, now.reason, now.share) == (True, "state_not_saved", 0.0)
    assert one.process.stop()[0] == 3


def test_a_second_sender_is_refused_where_its_number_is_taken_by_another_batch(judge):
    one, rng = judge(), np.random.default_rng(6)
    mine, theirs = one.batch(rng, 0, 0.1, 0.0), one.batch(rng, 0, 0.1, 0.5)
    list(one.observe(iter([mine])))
    with pytest.raises(grpc.RpcError) as refused:
        list(one.observe(iter([theirs])))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "batch 0" in refused.value.details()
    assert "judged before with other content" in refused.value.details()
    (again,) = one.observe(iter([mine]))
    assert (again.requests, dict(again.counts)) == (100, {"repeated_batches": 1})


@pytest.mark.parametrize("saved", [False, True])
def test_a_repetition_is_known_and_counted_after_a_kill(judge, saved):
    one, rng = judge(), np.random.default_rng(7)
    batches = [one.batch(rng, number, 0.1, 0.0) for number in range(2)]
    list(one.observe(iter([*batches, batches[0]])))
    if saved:
        one.process.stop()
    else:
        one.process.process.kill()
        one.process.wait()
    other = judge()
    (again,) = other.observe(iter([batches[1]]))
    assert (again.next_batch, again.requests) == (2, 200)
    assert dict(again.counts) == {"repeated_batches": 2}
    with pytest.raises(grpc.RpcError) as refused:
        list(other.observe(iter([other.batch(rng, 1, 0.1, 0.0)])))
    assert "judged before with other content" in refused.value.details()


def test_a_refused_value_is_named_by_its_batch_and_guardrail(judge):
    one, rng = judge(), np.random.default_rng(8)
    far = one.batch(rng, 0, 0.1, 0.0)
    far.values["score"].value[3] = 7.0
    with pytest.raises(grpc.RpcError) as refused:
        list(one.observe(iter([far])))
    assert "batch 0, guardrail score" in refused.value.details()
    with pytest.raises(grpc.RpcError) as refused:
        list(one.observe(iter([one.batch(rng, 0, 0.1, 0.0, until_ns=-(2**63))])))
    assert "beyond the years 1824 to 2116" in refused.value.details()


def test_a_folder_that_blocks_does_not_keep_the_judge_from_ending(judge):
    judge = judge()
    events_file = judge.out / "events.jsonl"
    events_file.rename(judge.out / "before")
    os.mkfifo(events_file)
    message = judge.batch(np.random.default_rng(1), 0, 0.1, 0.0)
    with pytest.raises(grpc.RpcError):
        list(judge.observe(iter([message]), timeout=1.0))
    code, shown, err = judge.process.stop()
    assert (code, "Traceback" in err) == (3, False)
    assert "the folder did not answer at the end" in shown
