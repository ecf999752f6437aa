"""A batch that is refused changes nothing: the corrected one is judged."""

import numpy as np
import pytest
from canaries import START, canary

from harness.core.errors import TrafficError
from harness.judge.exposures import Requests
from harness.judge.live_plan import LiveBatch
from harness.live.entries import Entry


def entry(propensity):
    requests = Requests(
        ts_ns=np.array([START]), unit=np.array(["a"], object), candidate=np.array([True]),
        propensity=np.array([propensity]),
        values={"score": np.array([0.3]), "errors": np.array([0.0])},
    )  # fmt: skip
    batch = LiveBatch(number=0, until_ns=START + 1, requests=requests, labels={})
    return Entry(batch=batch, seq=0, answers={}, label_offset=0)


def test_an_arm_without_a_chance_is_refused_before_anything_is_changed():
    watched = canary()
    with pytest.raises(TrafficError, match="propensity is 0"):
        watched.judge(entry(0.0))
    assert watched.judge(entry(0.1)).n_requests == 1
