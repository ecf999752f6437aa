"""The recorder's parts: frames, queue, sample, redaction, spool, counts, clock."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.core.calls import Call
from harness.core.errors import GateError, PolicyError, TrafficError, UsageError
from harness.core.jsonable import jsonable
from harness.core.recording import (
    SHARE_UNIT,
    Recorded,
    Redact,
    Redacted,
    RedactionRule,
    totals_from_counts,
    totals_from_json,
)
from harness.core.traffic import Exchange
from harness.pipeline.redaction import read_redaction
from harness.record.exchanges import ClockWatch, ExchangeMaker
from harness.record.frames import Framed, FrameReader, frame_from_call
from harness.record.outbox import Outbox
from harness.record.redaction import Redaction
from harness.record.sampling import Sampler
from harness.record.spooling import Spooler
from harness.store.counts import Counts
from harness.store.exchanges import batch_from_exchanges, exchanges_from_batch
from harness.store.spool import Spool, spooled, spooled_exchanges
from harness.store.totals import read_totals, write_totals
from harness.store.traffic import TrafficSource
from harness.wire import MODEL_INFER
from harness.wire.contents import MessageError
from harness.wire.facts import request_facts
from harness.wire.messages import (
    request_bytes,
    response_bytes,
    tensors_from_request,
    tensors_from_response,
)

texts = st.text(max_size=20)
metadata = st.lists(
    st.tuples(st.just("name"), texts) | st.tuples(st.just("key-bin"), st.binary(max_size=20)),
    max_size=4,
).map(tuple)
calls = st.builds(
    Call,
    ts_ns=st.integers(-(2**63), 2**63 - 1), latency_ns=st.integers(0, 2**62), method=texts,
    code=st.integers(0, 16), details=texts, request=st.binary(max_size=300),
    response=st.binary(max_size=300), metadata=metadata, trailing=metadata, upstream=texts,
    cancelled=st.booleans(), stream=texts,
)  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(calls, st.booleans()), max_size=5), st.integers(1, 200))
def test_calls_come_out_of_their_frames_as_they_went_in(sent, piece):
    stream = b"".join(b"".join(frame_from_call(c, kept_as_failed=k)) for c, k in sent)
    reader = FrameReader()
    found = [f for i in range(0, len(stream), piece) for f in reader.feed(stream[i : i + piece])]
    assert [(f.call, f.kept_as_failed) for f in found] == sent


def with_outbox(most_bytes, most, body):
    async def run():
        ours, theirs = socket.socketpair()
        with ours, theirs:
            outbox = Outbox(asyncio.get_running_loop(), ours, most_bytes=most_bytes, most=most)
            return await body(outbox, theirs)

    return asyncio.run(run())


def test_a_queue_refuses_beyond_its_bytes_and_its_count():
    async def by_bytes(outbox, _):
        return [outbox.put([b"x" * 400]) for _ in range(4)], outbox.bytes, len(outbox)

    assert with_outbox(1000, 99, by_bytes) == ([True, True, False, False], 800, 2)

    async def by_count(outbox, _):
        return [outbox.put([b"x", b"y"]) for _ in range(4)], len(outbox)

    assert with_outbox(1000, 3, by_count) == ([True, True, True, False], 3)


def test_a_queue_sends_everything_in_order_to_a_slow_reader():
    sent = [bytes([i % 256]) * 50_000 for i in range(100)]

    async def body(outbox, theirs):
        for part in sent:
            assert outbox.put([part[:7], part[7:]])
        received = b""
        loop = asyncio.get_running_loop()
        theirs.setblocking(False)
        while len(received) < 5_000_000:
            received += await loop.sock_recv(theirs, 4096 * 16)
        return received, await outbox.drained(5), len(outbox), outbox.bytes

    received, drained, left, waiting = with_outbox(10_000_000, 1000, body)
    assert received == b"".join(sent)
    assert (drained, left, waiting) == (True, 0, 0)


def test_a_queue_whose_reader_has_gone_is_broken_and_takes_nothing():
    async def body(outbox, theirs):
        theirs.close()
        outbox.put([b"x"])
        await asyncio.sleep(0.1)
        return outbox.broken, outbox.put([b"y"])

    assert with_outbox(100, 9, body) == (True, False)


def requests(n):
    return [request_bytes("m", {}, f"id-{i}") for i in range(n)]


def test_a_sample_keeps_its_share_and_the_same_ids_everywhere():
    asked = requests(4000)
    first = [Sampler(0.25, 7).keeps(r) for r in asked]
    again = Sampler(0.25, 7)
    assert [again.keeps(r) for r in reversed(asked)][::-1] == first
    assert abs(sum(first) - 1000) < 5 * (4000 * 0.25 * 0.75) ** 0.5
    assert [Sampler(0.25, 8).keeps(r) for r in asked] != first


def test_a_sample_keeps_its_share_of_requests_without_an_id():
    sampler = Sampler(0.5, 1)
    kept = sum(sampler.keeps(request_bytes("m", {}, "")) for _ in range(1000))
    assert abs(kept - 500) < 5 * 250**0.5


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, float("nan")])
def test_a_share_outside_its_range_is_refused(share):
    with pytest.raises(UsageError, match="is no share"):
        Sampler(share, 0)


KEY = b"0123456789abcdef"


def rule(where, name, action, step=0.0):
    return RedactionRule(where=where, name=name, action=action, step=step)


def test_inputs_are_dropped_hashed_and_rounded():
    redaction = Redaction(
        [
            rule(Redacted.INPUT, "gone", Redact.DROP),
            rule(Redacted.INPUT, "word", Redact.HASH),
            rule(Redacted.INPUT, "number", Redact.HASH),
            rule(Redacted.INPUT, "income", Redact.ROUND, 100.0),
            rule(Redacted.INPUT, "count", Redact.ROUND, 10.0),
        ],
        KEY,
    )
    given = {
        "gone": np.array([1.0]), "word": np.array(["a", "b", "a"], object),
        "number": np.array([5, -6, 5]), "income": np.array([149.0, np.nan, 151.0], np.float32),
        "count": np.array([-128, 4, 127], np.int8), "other": np.array([3.25]),
    }  # fmt: skip
    found = tensors_from_request(redaction.request(request_bytes("m", given, "r")))
    assert list(found) == ["word", "number", "income", "count", "other"]
    words, numbers = found["word"].tolist(), found["number"].tolist()
    assert words[0] == words[2] != words[1]
    assert all(len(w) == 32 for w in words)
    assert numbers[0] == numbers[2] not in (5, numbers[1])
    np.testing.assert_array_equal(found["income"], np.array([100.0, np.nan, 200.0], np.float32))
    assert found["count"].tolist() == [-128, 0, 127]
    assert found["other"].tolist() == [3.25]


def test_other_keys_give_other_hashes():
    rules = [rule(Redacted.INPUT, "word", Redact.HASH)]
    request = request_bytes("m", {"word": np.array(["a"], object)}, "r")
    assert Redaction(rules, KEY).request(request) != Redaction(rules, KEY * 2).request(request)


def test_a_rule_for_an_input_holds_for_an_output_of_that_name():
    redaction = Redaction([rule(Redacted.INPUT, "word", Redact.DROP)], b"")
    outputs = {"word": np.array(["a"], object), "p": np.array([0.5])}
    found = tensors_from_response(redaction.response(response_bytes("m", "1", outputs, "r")))
    assert list(found) == ["p"]


def test_unknown_fields_are_not_passed_on():
    redaction = Redaction([rule(Redacted.INPUT, "word", Redact.DROP)], b"")
    assert b"hidden" not in redaction.request(request_bytes("m", {}, "r") + b"\xa2\x06\x06hidden")


def test_parameters_and_metadata_are_redacted():
    from harness.wire.gen import open_inference_pb2 as pb

    message = pb.ModelInferRequest(model_name="m")
    message.parameters["user"].string_param = "u1"
    message.parameters["level"].int64_param = 3
    rules = [
        rule(Redacted.PARAMETER, "user", Redact.HASH),
        rule(Redacted.METADATA, "x-user", Redact.HASH),
        rule(Redacted.METADATA, "x-gone", Redact.DROP),
        rule(Redacted.METADATA, "cookie", Redact.HASH),
    ]
    redaction = Redaction(rules, KEY)
    facts = request_facts(redaction.request(message.SerializeToString()))
    assert facts.parameters["level"] == "3"
    assert len(facts.parameters["user"]) == 32
    kept = dict(
        redaction.metadata(
            [("x-user", "u1"), ("x-gone", "1"), ("cookie", "c"), ("authorization", "b"), ("y", "z")]
        )
    )
    assert kept.keys() == {"x-user", "cookie", "y"}
    assert kept["x-user"] == facts.parameters["user"]
    assert kept["y"] == "z"


def test_parameters_of_tensors_are_redacted():
    from harness.wire.gen import open_inference_pb2 as pb

    redaction = Redaction([rule(Redacted.PARAMETER, "tok", Redact.DROP)], b"")
    request = pb.ModelInferRequest(model_name="m")
    for tensor in (request.inputs.add(name="x"), request.outputs.add(name="y")):
        tensor.parameters["tok"].string_param = "hidden"
    response = pb.ModelInferResponse(model_name="m")
    response.outputs.add(name="y").parameters["tok"].string_param = "hidden"
    assert b"hidden" not in redaction.request(request.SerializeToString())
    assert b"hidden" not in redaction.response(response.SerializeToString())


@pytest.mark.parametrize("part", ["raw without a tensor", "typed beside raw", "twice"])
@pytest.mark.parametrize("kind", ["request", "response"])
def test_a_message_that_contradicts_itself_is_not_written_under_rules(part, kind):
    from harness.wire.gen import open_inference_pb2 as pb

    redaction = Redaction([rule(Redacted.INPUT, "elsewhere", Redact.DROP)], b"")
    asks = kind == "request"
    message = pb.ModelInferRequest() if asks else pb.ModelInferResponse()
    tensors = message.inputs if asks else message.outputs
    raws = message.raw_input_contents if asks else message.raw_output_contents
    first = tensors.add(name="x", datatype="INT8", shape=[1])
    raws.append(b"1")
    edited = redaction.request if asks else redaction.response
    assert edited(message.SerializeToString())
    match part:
        case "raw without a tensor":
            raws.append(b"hidden")
        case "typed beside raw":
            first.contents.bytes_contents.append(b"hidden")
        case "twice":
            tensors.add(name="x", datatype="INT8", shape=[1])
            raws.append(b"2")
    with pytest.raises(MessageError):
        edited(message.SerializeToString())


def test_rules_that_nothing_had_a_value_for_are_known():
    rules = [
        rule(Redacted.INPUT, "word", Redact.HASH),
        rule(Redacted.INPUT, "wrod", Redact.DROP),
        rule(Redacted.PARAMETER, "user", Redact.DROP),
        rule(Redacted.METADATA, "x-user", Redact.HASH),
        rule(Redacted.METADATA, "x-usr", Redact.DROP),
    ]
    redaction = Redaction(rules, KEY)
    redaction.request(request_bytes("m", {"word": np.array(["a"], object)}, "r"))
    redaction.metadata([("x-user", "u")])
    assert redaction.unused == {rules[1], rules[2], rules[4]}


@pytest.mark.parametrize(
    ("given", "action"),
    [
        (np.array([1.5]), Redact.HASH),
        (np.array([True]), Redact.HASH),
        (np.array(["a"], object), Redact.ROUND),
        (np.array([1]), Redact.ROUND),
    ],
)
def test_a_rule_that_does_not_fit_the_tensor_is_an_error(given, action):
    redaction = Redaction([rule(Redacted.INPUT, "x", action, 0.5)], KEY)
    with pytest.raises(MessageError):
        redaction.request(request_bytes("m", {"x": given}, "r"))


def rules_file(tmp_path, text):
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    return path


def test_rules_are_read_from_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("REDACTION_KEY", "k" * 20)
    found = read_redaction(
        rules_file(
            tmp_path,
            "version: 1\nkey: {env: REDACTION_KEY}\nrules:\n- {input: a, action: round, step: 0.5}\n"
            "- {metadata: X-User, action: hash}\n- {output: b, action: drop}\n",
        )
    )
    assert found.key == b"k" * 20
    assert not found.details
    assert found.rules == (
        rule(Redacted.INPUT, "a", Redact.ROUND, 0.5),
        rule(Redacted.METADATA, "x-user", Redact.HASH),
        rule(Redacted.OUTPUT, "b", Redact.DROP),
    )


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ("- {inptu: a, action: drop}", "did you mean 'input'"),
        ("- {input: a, action: dorp}", "did you mean 'drop'"),
        ("- {input: a, action: hash}", "a rule hashes"),
        ("- {input: a, metadata: b, action: drop}", "not exactly one value"),
        ("- {action: drop}", "not exactly one value"),
        ("- {metadata: a, action: round, step: 1}", "cannot round metadata"),
        ("- {input: a, action: round}", "step: is missing"),
        ("- {input: a, action: round, step: 0}", "above 0"),
        ("- {input: a, action: drop, step: 1}", "means nothing"),
        ("- {input: a, action: drop}\n- {input: a, action: drop}", "second rule"),
        (" []", "has no rule"),
        ("- {input: a, action: drop}\ndetails: kepe", "did you mean 'keep'"),
    ],
)
def test_wrong_rules_are_refused_with_their_line(tmp_path, rules, says):
    with pytest.raises(PolicyError) as caught:
        read_redaction(rules_file(tmp_path, f"version: 1\nrules:\n{rules}\n"))
    assert says in str(caught.value).lower()


def test_a_short_or_missing_key_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_KEY", raising=False)
    text = "version: 1\nkey: {%s}\nrules:\n- {input: a, action: hash}\n"
    (tmp_path / "short").write_text("abc")
    for key, says in [
        ("env: NO_KEY", "0 bytes"), ("file: short", "3 bytes"), ("file: gone", "cannot be read"),
    ]:  # fmt: skip
        with pytest.raises(UsageError, match=says):
            read_redaction(rules_file(tmp_path, text % key))


def batch(*numbers):
    made = [
        Exchange(
            ts_ns=i, latency_ns=1, code=0, method=MODEL_INFER, model="m", version="1",
            request_id=f"r{i}", request=request_bytes("m", {}, f"r{i}"), response=b"",
        )
        for i in numbers
    ]  # fmt: skip
    return batch_from_exchanges(made)


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_of_a_spool_that_is_cut_off_all_whole_row_groups_are_left(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("spool") / "s"
    spool = Spool(path, sync=False)
    ends = []
    for i in range(3):
        spool.append(batch(i, i + 10))
        ends.append(spool.size_bytes)
    spool.close()
    cut = data.draw(st.integers(0, spool.size_bytes))
    path.write_bytes(path.read_bytes()[:cut])
    assert len(list(spooled(path))) == sum(end <= cut for end in ends)


def test_a_damaged_row_group_ends_a_spool(tmp_path):
    spool = Spool(tmp_path / "s", sync=False)
    spool.append(batch(0))
    first = spool.size_bytes
    spool.append(batch(1))
    spool.close()
    content = bytearray(spool.path.read_bytes())
    content[first + 100] ^= 1
    spool.path.write_bytes(content)
    assert [e.request_id for e in spooled_exchanges(spool.path)] == ["r0"]


def test_a_row_group_that_the_disk_refuses_leaves_no_trace(tmp_path):
    import resource

    spool = Spool(tmp_path / "s", sync=False)
    spool.append(batch(0))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (spool.size_bytes + 50, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            spool.append(batch(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert spool.path.stat().st_size == spool.size_bytes
    spool.append(batch(2))
    spool.close()
    assert [e.request_id for e in spooled_exchanges(spool.path)] == ["r0", "r2"]
    assert spool.rows == 2


def spooler(out, counts):
    folder = out / ".recorder"
    folder.mkdir(parents=True, exist_ok=True)
    made = Spooler(out, folder, "rec", counts, sync=False)
    return made, made.recover()


def of_model(model, i):
    return replace(exchanges_from_batch(batch(i))[0], model=model)


def test_a_spool_that_cannot_be_published_stops_no_other_and_comes_back(tmp_path):
    counts = Counts(tmp_path / "c")
    out = tmp_path / "traffic"
    writing, _ = spooler(out, counts)
    (out / "model=bad").write_text("somebody's file")
    writing.write([of_model("bad", 1), of_model("bad", 2)])
    writing.rotate()
    writing.write([of_model("good", 3)])
    writing.close()
    assert (counts[Recorded.WRITTEN], counts[Recorded.SET_ASIDE]) == (1, 2)
    assert [p.parts[-4] for p in out.rglob("*.parquet")] == ["model=good"]
    (out / "model=bad").unlink()
    again, found = spooler(out, counts)
    again.close()
    assert found == 0
    assert (counts[Recorded.WRITTEN], counts[Recorded.SET_ASIDE]) == (3, 0)
    assert len(list(TrafficSource.open([out]).exchanges())) == 3
    counts.close()


def test_totals_are_the_counters_where_those_are_newer(tmp_path):
    folder = tmp_path / ".recorder"
    folder.mkdir()
    counts = Counts(folder / "rec.counts")
    counts.set(Recorded.SHARE, SHARE_UNIT // 4)
    counts.set(Recorded.SEEN, 7)
    write_totals(tmp_path, counts.totals(writer="rec", sample=0.25))
    counts.set(Recorded.SEEN, 9)
    (read,) = read_totals([tmp_path])
    assert read == counts.totals(writer="rec", sample=0.25)
    counts.set(Recorded.SEEN, 3)
    assert read_totals([tmp_path])[0].seen == 7
    counts.close()


_FULL = """
import os, sys
from pathlib import Path
from harness.core.recording import SHARE_UNIT, Recorded, totals_from_counts
from harness.store.totals import read_totals, write_totals

disk = Path(sys.argv[1])
of = dict.fromkeys(Recorded, 0)
write_totals(disk, totals_from_counts(of, writer="w", sample=0.5))
with (disk / "filled").open("wb", buffering=0) as filled:
    try:
        while filled.write(bytes(512)):
            pass
    except OSError as error:
        print(error.strerror)
for seen in (7, 8, 9):
    write_totals(disk, totals_from_counts(of | {Recorded.SEEN: seen}, writer="w", sample=0.5))
    print(read_totals([disk])[0].seen)
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare"), reason="only root can mount a small disk"
)
def test_a_disk_that_filled_up_takes_new_totals(tmp_path):
    mounted = f"mount -t tmpfs -o size=64k none {tmp_path} && exec {sys.executable} - {tmp_path}"
    ran = subprocess.run(
        ["unshare", "-m", "sh", "-c", mounted], input=_FULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "permitted" in ran.stderr or "denied" in ran.stderr:
        pytest.skip("mounts are not permitted here")
    assert ran.stdout.split("\n")[:-1] == ["No space left on device", "7", "8", "9"], ran.stderr


def test_a_kill_while_totals_are_written_leaves_the_old_or_the_new(tmp_path, monkeypatch):
    counts = dict.fromkeys(Recorded, 0)
    for seen in range(12):
        steps = iter(range(seen % 6))

        def step(do, steps=steps):
            def stepped(*arguments, **options):
                if next(steps, None) is None:
                    raise KeyboardInterrupt
                return do(*arguments, **options)

            return stepped

        with monkeypatch.context() as killing, suppress(KeyboardInterrupt):
            if seen:
                killing.setattr(Path, "rename", step(Path.rename))
                killing.setattr(Path, "hardlink_to", step(Path.hardlink_to))
                killing.setattr(os, "pwrite", step(os.pwrite))
            write_totals(
                tmp_path,
                totals_from_counts(counts | {Recorded.SEEN: seen + 1}, writer="w", sample=0.5),
            )
        assert 1 <= read_totals([tmp_path])[0].seen <= seen + 1
    write_totals(tmp_path, totals_from_counts(counts | {Recorded.SEEN: 99}, writer="w", sample=0.5))
    assert read_totals([tmp_path])[0].seen == 99


def test_counts_are_shared_and_survive(tmp_path):
    ours, theirs = Counts(tmp_path / "c"), Counts(tmp_path / "c")
    ours.add(Recorded.SEEN, 3)
    theirs.add(Recorded.WRITTEN, 2)
    assert (theirs[Recorded.SEEN], ours[Recorded.WRITTEN]) == (3, 2)
    ours.close()
    theirs.close()
    assert Counts(tmp_path / "c")[Recorded.SEEN] == 3


def test_another_file_is_not_taken_for_counts(tmp_path):
    (tmp_path / "c").write_text("something else")
    with pytest.raises(GateError, match="is no counter file"):
        Counts(tmp_path / "c")


def test_totals_add_up_and_are_read_as_they_were_written():
    counts = dict.fromkeys(Recorded, 0) | {
        Recorded.SEEN: 20, Recorded.SAMPLED_OUT: 5, Recorded.QUEUE_FULL: 2, Recorded.HANDED: 13,
        Recorded.UNPARSABLE: 1, Recorded.WRITTEN: 9, Recorded.DUPLICATE_IDS: 4,
    }  # fmt: skip
    totals = totals_from_counts(counts, writer="w", sample=0.5)
    assert totals.waiting == 3
    assert totals.seen == (
        totals.sampled_out
        + totals.written
        + totals.waiting
        + sum(n for _, n in totals.not_recorded)
    )
    assert totals_from_json(json.loads(json.dumps(jsonable(totals))), "x") == totals


@pytest.mark.parametrize("found", [[], {}, {"writer": "x"}, "text", None])
def test_something_else_is_not_taken_for_totals(found):
    with pytest.raises(TrafficError, match="is no recorder's totals"):
        totals_from_json(found, "x")


def test_steps_of_the_wall_clock_are_noticed():
    watch, second = ClockWatch(), 1_000_000_000
    looks = [(100, 0), (101, 1), (105, 5), (50, 6), (51, 7), (3651, 8)]
    assert [watch.stepped(w * second, s * second) for w, s in looks] == [
        False, False, False, True, False, True,
    ]  # fmt: skip


VALID = request_bytes(
    "m", {"word": np.array(["a", "bb"], object), "x": np.array([[1.5, 2.5]], np.float32)}, "id"
)
changes = st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=6)
RULES = [rule(Redacted.INPUT, "word", Redact.HASH), rule(Redacted.INPUT, "x", Redact.ROUND, 0.5)]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(found=calls, changed=changes, cut=st.integers(0, len(VALID)), redacted=st.booleans())
def test_whatever_is_sent_becomes_a_row_or_is_counted(found, changed, cut, redacted):
    request = bytearray(VALID)
    for at, value in changed:
        request[at] = value
    call = replace(found, request=bytes(request[:cut]), code=found.code)
    with TemporaryDirectory() as folder:
        counts = Counts(Path(folder) / "c")
        maker = ExchangeMaker(
            Redaction(RULES if redacted else [], KEY), ["word", "name"], made_up="u-", counts=counts
        )
        exchange = maker.make(Framed(call, kept_as_failed=False))
        if exchange is None:
            assert counts[Recorded.UNPARSABLE] + counts[Recorded.UNREDACTABLE] == 1
        else:
            assert exchange.request_id
            assert batch_from_exchanges([exchange]).num_rows == 1
        counts.close()
