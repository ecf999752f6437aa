"""Simulated traffic for a canary: no clock, no network, seeded."""

import numpy as np

from harness.decide.policy import live_from_yaml
from harness.live.canary import Canary

SECOND = 10**9
START = 10**18

POLICY = """
version: 1
decision: {output: probability, rule: threshold, value: 0.5}
live:
  steps: [0.1, 0.5]
  unit: user
  stay: {requests: 200}
  patience: 5s
  guardrails:
    - {name: score, metric: score_shift, kind: shift, margin: 0.1, effect: 0.0, variance: 0.02}
    - {name: errors, kind: errors, ratio: 2, gating: false}
"""


def live(text=POLICY, **changes):
    for old, new in changes.items():
        text = text.replace(old, new)
    return live_from_yaml(text, "p")


class Traffic:
    """Requests one after the other, 10 a second, each by a user of its own; answered at once."""

    def __init__(self, seed=0, harm=0.0, start_ns=START, silent=0):
        self.rng = np.random.default_rng(seed)
        self.harm = harm
        self.silent = silent  # each so many-th request asks for something else than the score
        self.now_ns = start_ns
        self.sent = 0
        self.arms = {}

    def values(self, candidate):
        score = float(np.clip(self.rng.normal(0.3 + self.harm * candidate, 0.1), 0.0, 1.0))
        return {"score": score, "errors": 0.0}

    def request(self, canary, unit=None):
        self.now_ns += SECOND // 10
        self.sent += 1
        unit = f"u{self.sent}" if unit is None else unit
        arrival = canary.route(unit, self.now_ns)
        self.arms[unit] = None if arrival is None else arrival.candidate
        return arrival

    def answered(self, canary, n, unit=None):
        for _ in range(n):
            arrival = self.request(canary, unit)
            if arrival is not None:
                values = self.values(arrival.candidate)
                silent = self.silent and self.sent % self.silent == 0
                left_out = frozenset({"score"} if silent else ())
                canary.answered(arrival.seq, values, {"loss": values["score"]}, left_out)

    def turn(self, canary, n=50):
        self.answered(canary, n)
        self.now_ns += SECOND // 20
        return canary.judge(canary.batch(self.now_ns))

    def until_final(self, canary, most=6_000, n=50):
        standing = canary.standing()
        while not standing.final and self.sent < most:
            standing = self.turn(canary, n)
        return standing


def canary(seed="s", text=POLICY):
    return Canary(live(text), seed)
