"""A candidate that hangs costs a client the patience of the policy, not its answer."""

import asyncio
import time

import pytest
from live_peers import served_by

from harness.live.arms import ForgivingArm
from harness.live.arrivals import Arrival
from harness.live.heartbeat import Heartbeat
from harness.record.upstream import Upstream
from harness.wire import MODEL_INFER


async def _hangs(*_):
    await asyncio.sleep(30.0)
    return b"late"


async def _answers(*_):
    return b"baseline"


async def _asked(timeout, still):
    """What was answered and told, how long it took, and whether the process stood still meanwhile."""
    slow, quick = await served_by(_hangs), await served_by(_answers)
    ups = Upstream(slow[1], name="candidate"), Upstream(quick[1], name="baseline")
    failed = []
    heart = Heartbeat()
    beating = asyncio.create_task(heart.beat())
    arm = ForgivingArm(
        ups[0], Arrival(1, 1, 1, 0.5, 0, True), ups[1], lambda *told: failed.append(told), 0.3,
        heart,
    )  # fmt: skip
    start, begun = time.perf_counter(), time.monotonic()
    if still:
        asyncio.get_running_loop().call_later(0.1, time.sleep, 0.6)
    found = await arm.unary(MODEL_INFER)(b"", timeout=timeout, metadata=())
    took, stood = time.perf_counter() - start, heart.stood_since(begun)
    beating.cancel()
    for up in ups:
        await up.close()
    for server, _ in (slow, quick):
        await server.stop(0)
    return found, failed, took, stood


@pytest.mark.parametrize(
    ("timeout", "still", "told"), [(None, False, 4), (20.0, False, 4), (20.0, True, None)]
)
def test_a_candidate_that_hangs_is_cut_and_the_baseline_is_asked(timeout, still, told):
    """A process that stood still when the deadline came knows nothing of the candidate."""
    for _ in range(20):
        found, failed, took, stood = asyncio.run(_asked(timeout, still))
        if stood == still:  # else the machine made it stand still
            break
    assert stood == still
    assert (found, failed) == (b"baseline", [("request 1 1", told)])
    assert took < 10.0
