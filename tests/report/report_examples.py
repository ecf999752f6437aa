"""Four runs as their run folders would hold them: the JSON values the report is made from.

The numbers are those of a flight-delay model; the evidence paths are made by a seeded simulation
of an interval that narrows like √(log n / n) around a mean.
"""

import copy
import math

import numpy as np
from graph_examples import small_graph

DAY = 86_400_000_000_000
SEP_1 = 1_377_993_600_000_000_000
OCT_31 = SEP_1 + 61 * DAY - 60_000_000_000
MATURED_END = OCT_31 - 2 * DAY
OLD_DIGEST = "3f1c" * 16
NEW_DIGEST = "9ab7" * 16


def path(mean, spread, last, seed, *, lo=-1.0, hi=1.0, margin=0.01, first=512):
    """Looks at batch ends with an interval that narrows around a wandering mean."""
    rng = np.random.default_rng(seed)
    points = []
    total, n = 0.0, 0
    while n < last:
        step = min(first, last - n)
        total += mean * step + spread * math.sqrt(step) * rng.standard_normal()
        n += step
        centre = total / n
        half = spread * math.sqrt((2 * math.log(n) + 6) / n)
        gap = (margin - centre) / max(spread, 1e-9)
        points.append(
            {
                "n": n,
                "lower": max(lo, centre - half),
                "upper": min(hi, centre + half),
                "log_e_promote": gap * abs(gap) * n / 2 - 1,
                "log_e_rollback": -gap * abs(gap) * n / 2 - 1,
            }
        )
    return points


def evidence(name, metric, verdict, points, **given):
    """One Evidence as JSON."""
    end = points[-1] if points else {"n": 0, "lower": "-Infinity", "upper": "Infinity"}
    row = {
        "name": name,
        "guardrail": name.partition("[")[0],
        "metric": metric,
        "window": "newest",
        "slice": "",
        "margin": 0.01,
        "direction": "increase",
        "gating": True,
        "verdict": verdict,
        "reason": {
            "PASS": "Proven within the margin.",
            "FAIL": "Proven beyond the margin.",
            "INCONCLUSIVE": "Neither side is proven with the requests at hand.",
            "NO_DATA": "No request of the window entered.",
        }[verdict],
        "subject": "mean over the requests of the window",
        "n": end["n"],
        "n_available": end["n"],
        "n_failed": 0,
        "e_promote": 4.1e9 if verdict == "PASS" else 0.02,
        "e_rollback": 3.3e12 if verdict == "FAIL" else 0.004,
        "lower": end["lower"],
        "upper": end["upper"],
        "weight": 0.125,
        "path": points,
    }
    return row | given


def feature(name, kind="raw", verdict="equal", **given):
    """One row of intermediates.json."""
    row = {
        "name": name,
        "kind": kind,
        "requests": 42_120,
        "rows": 42_120,
        "mismatched_requests": 0,
        "max_abs": 0.0,
        "max_rel": 0.0,
        "tolerance": 1e-6,
        "verdict": verdict,
        "relation": "equal" if verdict == "equal" else "other",
        "value": None,
        "text": "",
        "example": None,
    }
    return row | given


def _model(version, digest, cutoff):
    return {
        "given": f"models:/flight-delay@{'champion' if version == '3' else 'challenger'}",
        "uri": f"models:/flight-delay/{version}",
        "name": "flight-delay",
        "version": version,
        "digest": digest,
        "training_cutoff_ns": cutoff,
        "requirements": ["onnxruntime==1.24.1", "numpy==2.3.4"],
    }


def _windows():
    return {
        "newest": {
            "n": 54_832,
            "first_ts_ns": SEP_1,
            "last_ts_ns": OCT_31,
            "judged": 42_120,
            "reason": "stopped early: every guardrail was settled",
        },
        "matured": {
            "n": 52_904,
            "first_ts_ns": SEP_1,
            "last_ts_ns": MATURED_END,
            "judged": 51_377,
            "reason": "",
        },
    }


def _manifest():
    return {
        "run_id": "2013-11-01T00-00-00Z-flight-delay-4-b71c",
        "created_at": "2013-11-01T06:12:44Z",
        "as_of": "2013-11-01T00:00:00Z",
        "attempt": 1,
        "seed": 8_231_775_120_033,
        "harness_version": "0.1.0",
        "policy": {
            "digest": "c0de" * 16,
            "preset": "retrain",
            "mode": "enforce",
            "claim": "process",
            "text": "version: 1\npreset: retrain\nmode: enforce\nalpha: {promote: 0.05, rollback: 0.05}\n"
            "decision: {output: probabilities, rule: threshold, value: 0.3}\n"
            "guardrails:\n  - {name: loss, metric: loss_difference, loss: brier, margin: 0.002, window: matured}\n",
            "approval": {"required": True, "approvers": 1},
        },
        "baseline": _model("3", OLD_DIGEST, SEP_1 - 92 * DAY),
        "candidate": _model("4", NEW_DIGEST, SEP_1 - 31 * DAY),
        "window": {
            "window_hash": "77aa" * 16,
            "count": 54_832,
            "first_ts_ns": SEP_1,
            "last_ts_ns": OCT_31,
            "inputs": [{"name": "hour", "datatype": "INT64", "shape": []}],
            "recorded": [{"name": "probabilities", "datatype": "FP32", "shape": [2]}],
            "context": ["carrier", "origin"],
            "not_sealed": [["other_model", 1_204], ["undecodable_request", 3]],
            "sources": [[f"part-{k:03}.parquet", "ab" * 32] for k in range(61)],
            "versions": [["3", 54_832]],
        },
        "labels": {
            "files": ["labels.parquet"],
            "read": 53_990,
            "joined": 51_377,
            "unknown": 41,
            "late": 388,
        },
        "isolation": {
            "tier": "S2",
            "required": "S2",
            "allowed_below": False,
            "self_tests": [
                {"name": "UDP socket", "refused": True, "answer": "EPERM"},
                {"name": "create a file", "refused": False, "answer": "allowed"},
            ],
            "layers": [
                {"name": "seccomp", "on": True, "detail": "38 calls allowed, threads covered"},
                {"name": "landlock", "on": True, "detail": "ABI 4"},
                {
                    "name": "network_namespace",
                    "on": False,
                    "detail": "user namespaces are disabled on this host",
                },
                {
                    "name": "resource_limits",
                    "on": True,
                    "detail": "2 GiB address space, 64 files, no file writes",
                },
            ],
        },
        "environment": {
            "cpu": {"vendor": "GenuineIntel", "family": 6, "model": 143, "flags": ["avx2", "fma"]},
            "onnxruntime": "1.24.1",
            "numpy": "2.3.4",
            "kernel": "6.1.0",
        },
        "command": [
            "harness",
            "gate",
            "models:/flight-delay@champion",
            "models:/flight-delay@challenger",
        ],
    }


_RAW = ("hour", "hour_sin", "hour_cos", "weekday", "month", "distance", "carrier_code")


def _intermediates():
    """With a look into the graphs."""
    return {**_without_graph(), "graph": small_graph()}


def _without_graph():
    return {
        "features": [feature(name) for name in _RAW]
        + [feature(f"origin_{k}") for k in ("EWR", "JFK", "LGA")]
        + [
            feature(
                f"{name}_imputed",
                "fitted",
                "refitted",
                mismatched_requests=1_044,
                max_abs=0.31,
                max_rel=0.024,
                text="fill value 62.4 → 61.9",
                example={"request_id": "fl-20130914-1042", "baseline": 62.4, "candidate": 61.9},
            )
            for name in ("temp", "wind_speed", "visib")
        ]
        + [feature("precip_1h", "raw", "not_compared", text="only the candidate declares it")],
        "outputs": [
            feature(
                "probabilities",
                "output",
                "differs",
                mismatched_requests=42_120,
                max_abs=0.183,
                max_rel=0.31,
                text="retrained weights",
                example={
                    "request_id": "fl-20130914-1042",
                    "baseline": [0.71, 0.29],
                    "candidate": [0.69, 0.31],
                },
            ),
            feature(
                "label",
                "output",
                "differs",
                mismatched_requests=1_193,
                max_abs=1,
                max_rel=1,
                tolerance=0.0,
            ),
        ],
        "faithful": {"compared": 54_790, "mismatched": 0, "max_rel": 2.1e-7, "note": ""},
        "floor": [
            {
                "name": "probabilities",
                "largest": 1.2e-7,
                "scale": 0.92,
                "rows": 20_000,
                "nondeterministic": False,
            },
            *(
                {"name": n, "largest": 0.0, "scale": 1.0, "rows": 20_000, "nondeterministic": False}
                for n in _RAW
            ),
        ],
        "observer": {"checked": 2_048, "max_rel": 0.0, "note": ""},
        "not_compared": ["precip_1h: only the candidate declares this feature."],
    }


CARRIERS = ("UA", "B6", "EV", "DL", "AA", "MQ", "US", "9E", "WN")


def _changed(shift):
    rows = []
    for k in range(10):
        old = 0.22 + 0.01 * k
        rows.append(
            {
                "request_id": f"fl-2013{9 + k % 2:02}{3 + k:02}-{1000 + 37 * k}",
                "ts_ns": SEP_1 + k * 5 * DAY + 37_440_000_000_000,
                "baseline_score": old,
                "candidate_score": old + shift * (1 - 0.04 * k),
                "baseline_decision": int(old >= 0.3),
                "candidate_decision": int(old + shift * (1 - 0.04 * k) >= 0.3),
                "context": {
                    "carrier": CARRIERS[k % 9],
                    "origin": ("EWR", "JFK", "LGA")[k % 3],
                },
            }
        )
    return rows


def _summary():
    return {
        "latency": {
            "baseline": {"p50_ms": 0.0121, "p99_ms": 0.0388},
            "candidate": {"p50_ms": 0.0134, "p99_ms": 0.0421},
        },
        "flips": {
            "n": 42_120,
            "changed": 1_193,
            "to_positive": 640,
            "to_negative": 553,
            "mcnemar_p": 0.0126,
        },
        "decision_rate": {
            "newest": {"baseline": 0.2134, "candidate": 0.2155},
            "matured": {"baseline": 0.2121, "candidate": 0.2140},
        },
        "changed": _changed(0.183),
        "outcomes": {"baseline": {"OK": 42_120}, "candidate": {"OK": 42_120}},
        "slices": [
            {
                "column": "carrier",
                "value": c,
                "n": 7_900 - 700 * k,
                "baseline_rate": 0.19 + 0.01 * k,
                "candidate_rate": 0.192 + 0.0095 * k,
                "score_shift": 0.002 - 0.0005 * k,
            }
            for k, c in enumerate(CARRIERS)
        ],
        "coverage": [
            *(
                {
                    "column": "carrier",
                    "value": c,
                    "traffic_share": 0.17 - 0.015 * k,
                    "judged_share": 0.17 - 0.015 * k,
                }
                for k, c in enumerate(CARRIERS)
            ),
            {"column": "carrier", "value": "OO", "traffic_share": 0.00007, "judged_share": 0.0},
        ],
    }


def _slices(shift=0.0, most=7_424):
    rows = []
    for k, carrier in enumerate(CARRIERS):
        points = path(
            0.002 - 0.001 * k + shift * (1 - k / 8),
            0.08,
            most * (10 - k) // 10,
            20 + k,
            margin=0.05,
            first=256,
        )
        end = points[-1]
        within = end["lower"] > -0.05 and end["upper"] < 0.05
        verdict = "FAIL" if end["lower"] > 0.05 else "PASS" if within else "INCONCLUSIVE"
        rows.append(
            evidence(
                f"score[carrier={carrier}]",
                "score_shift",
                verdict,
                points,
                slice=f"carrier={carrier}",
                margin=0.05,
                direction="both",
                weight=0.05,
            )
        )
    return rows


def promote():
    """A retrained model that may go live."""
    rows = [
        evidence(
            "same",
            "parity_mismatch",
            "PASS",
            path(0.0, 0.004, 42_120, 1, lo=0, margin=0.001),
            margin=0.001,
        ),
        evidence(
            "rate",
            "decision_rate_shift",
            "PASS",
            path(0.002, 0.168, 42_120, 2, margin=0.1),
            margin=0.1,
            direction="both",
        ),
        evidence(
            "score",
            "score_shift",
            "PASS",
            path(0.003, 0.06, 42_120, 3, margin=0.05),
            margin=0.05,
            direction="both",
        ),
        evidence(
            "loss",
            "loss_difference",
            "PASS",
            path(-0.0016, 0.03, 51_377, 4, margin=0.002),
            margin=0.002,
            window="matured",
            n_available=52_904,
            n_failed=0,
        ),
        evidence(
            "flips",
            "decision_flip",
            "INCONCLUSIVE",
            path(0.0283, 0.16, 42_120, 5, lo=0, margin=0.03),
            margin=0.03,
            gating=False,
            reason="Reported, does not decide.",
        ),
        *_slices(),
    ]
    decision = {
        "decision": "PROMOTE",
        "reason": "all_guardrails_pass",
        "explanation": "All 13 gating guardrails are proven within their margins after 93,497 requests. "
        "On labelled requests the candidate's Brier loss is lower than the baseline's.",
        "binding_guardrail": "",
        "next": "Approve the run; then move the alias champion to version 4.",
        "n_requests": 93_497,
        "n_window": 107_736,
        "alpha": {"promote": 0.05, "rollback": 0.05},
        "attempt": 1,
        "not_compared": [
            "Latency was measured but is not judged: this is not the serving machine."
        ],
        "guardrails": [],
        "baseline": _model("3", OLD_DIGEST, SEP_1 - 92 * DAY),
        "candidate": _model("4", NEW_DIGEST, SEP_1 - 31 * DAY),
        "windows": _windows(),
        "isolation": _manifest()["isolation"],
        "evidence_sha256": "e51d" * 16,
    }
    return {
        "manifest": _manifest(),
        "decision": decision,
        "evidence": {
            "evidence": rows,
            "pooled": [
                {
                    "guardrail": "score",
                    "column": "carrier",
                    "values": ["YV", "HA", "F9", "AS", "OO"],
                    "share": 0.0199,
                }
            ],
            "combined": {"log_e_rollback": -2.1, "alpha_rollback": 0.05},
        },
        "intermediates": _intermediates(),
        "findings": {
            "findings": [
                {
                    "kind": "refitted",
                    "severity": "info",
                    "where": "temp_imputed",
                    "what": "temp_imputed: the fill value changed from 62.4 to 61.9; 1,044 of 42,120 requests use it.",
                    "remedy": "Expected after retraining on newer data.",
                    "relation": "",
                    "value": None,
                    "requests": ["fl-20130914-1042"],
                }
            ]
        },
        "summary": _summary(),
    }


def rollback():
    """The candidate reads the hour in UTC: +4 modulo 24."""
    run = copy.deepcopy(promote())
    run["evidence"]["evidence"] = [
        evidence(
            "same",
            "parity_mismatch",
            "FAIL",
            path(1.0, 0.01, 6_144, 6, lo=0, margin=0.001),
            margin=0.001,
            e_rollback=1e300,
        ),
        evidence(
            "loss",
            "loss_difference",
            "FAIL",
            path(0.0121, 0.11, 12_288, 7, margin=0.002),
            margin=0.002,
            window="matured",
            n_available=52_904,
        ),
        evidence(
            "rate",
            "decision_rate_shift",
            "INCONCLUSIVE",
            path(0.081, 0.31, 6_144, 8, margin=0.1),
            margin=0.1,
            direction="both",
        ),
        evidence(
            "score",
            "score_shift",
            "INCONCLUSIVE",
            path(0.043, 0.12, 6_144, 9, margin=0.05),
            margin=0.05,
            direction="both",
        ),
        evidence(
            "flips",
            "decision_flip",
            "FAIL",
            path(0.174, 0.38, 6_144, 10, lo=0, margin=0.03),
            margin=0.03,
            gating=False,
        ),
        *_slices(0.062, 1_086),
    ]
    run["evidence"]["combined"] = {"log_e_rollback": 680.4, "alpha_rollback": 0.05}
    run["decision"] |= {
        "decision": "ROLLBACK",
        "reason": "guardrail_failed",
        "explanation": "The feature hour differs in every request, and on labelled requests the candidate's "
        "Brier loss is higher than the policy tolerates. Both are proven at an error rate of 5 %.",
        "binding_guardrail": "same",
        "next": "Fix the candidate's reading of the hour: it looks like UTC instead of local time. Then gate again.",
        "n_requests": 18_432,
    }
    run["decision"]["windows"]["newest"] |= {
        "judged": 6_144,
        "reason": "stopped early: harm is proven",
    }
    run["decision"]["windows"]["matured"] |= {
        "judged": 12_288,
        "reason": "stopped early: harm is proven",
    }
    shifted = {"mismatched_requests": 6_144, "requests": 6_144, "verdict": "differs"}
    for row in run["intermediates"]["features"]:
        row["requests"] = row["rows"] = 6_144
        row["mismatched_requests"] = min(row["mismatched_requests"], 152)
        match row["name"]:
            case "hour":
                row.update(shifted)
                row.update(
                    {
                        "max_abs": 20.0,
                        "max_rel": 0.87,
                        "relation": "cyclic_shift",
                        "value": 4,
                        "text": "candidate = baseline + 4 modulo 24 in 100 % of requests",
                        "example": {
                            "request_id": "fl-20130914-1042",
                            "baseline": 17,
                            "candidate": 21,
                        },
                    }
                )
            case "hour_sin" | "hour_cos":
                row.update(shifted | {"max_abs": 1.93, "text": "may follow from hour"})
    run["findings"]["findings"] = [
        run["findings"]["findings"][0],
        {
            "kind": "feature_changed",
            "severity": "harm",
            "where": "hour",
            "what": "hour: candidate = baseline + 4 modulo 24 in 100 % of 6,144 requests (local → UTC hour?).",
            "remedy": "Compare the two versions' time zone handling; production sends local time.",
            "relation": "cyclic_shift",
            "value": 4.0,
            "requests": ["fl-20130914-1042", "fl-20130903-1000", "fl-20131004-1037"],
        },
        {
            "kind": "feature_changed",
            "severity": "warning",
            "where": "hour_sin, hour_cos",
            "what": "2 more features differ in every request; they may follow from hour.",
            "remedy": "Repair hour first.",
            "relation": "other",
            "value": None,
            "requests": [],
        },
    ]
    run["summary"]["flips"] = {
        "n": 6_144,
        "changed": 1_069,
        "to_positive": 783,
        "to_negative": 286,
        "mcnemar_p": 2e-51,
    }
    run["summary"]["decision_rate"] = {"newest": {"baseline": 0.2134, "candidate": 0.2943}}
    run["summary"]["changed"] = _changed(0.31)
    run["summary"]["outcomes"] = {
        "baseline": {"OK": 18_432},
        "candidate": {"OK": 18_430, "ERROR": 2},
    }
    return run


def hold():
    """Too few requests, advise mode, isolation below the requirement, unfaithful replay."""
    run = copy.deepcopy(promote())
    run["evidence"] = {
        "evidence": [
            evidence(
                "rate",
                "decision_rate_shift",
                "INCONCLUSIVE",
                path(0.004, 0.17, 900, 11, margin=0.1, first=100),
                margin=0.1,
                direction="both",
                reason="900 requests; the policy asks for at least 2,000.",
            ),
            evidence(
                "loss",
                "loss_difference",
                "NO_DATA",
                [],
                margin=0.002,
                window="matured",
                n_available=0,
                e_promote=1.0,
                e_rollback=1.0,
            ),
        ],
        "pooled": [],
        "combined": {"log_e_rollback": -0.4, "alpha_rollback": 0.025},
    }
    run["decision"] |= {
        "decision": "HOLD",
        "reason": "too_few_requests",
        "explanation": "Only 900 requests were recorded in the newest window and none has a matured label, "
        "so neither harm nor harmlessness can be proven.",
        "binding_guardrail": "loss",
        "next": "Record about 1,100 more requests and wait until their labels are 24 hours old, then gate again.",
        "n_requests": 900,
        "n_window": 900,
        "attempt": 2,
        "alpha": {"promote": 0.025, "rollback": 0.025},
        "windows": {
            "newest": {
                "n": 900,
                "first_ts_ns": OCT_31 - DAY,
                "last_ts_ns": OCT_31,
                "judged": 900,
                "reason": "below 2,000 requests",
            },
            "matured": {
                "n": 0,
                "first_ts_ns": 0,
                "last_ts_ns": 0,
                "judged": 0,
                "reason": "no label is 24 hours old",
            },
        },
    }
    run["manifest"]["policy"]["mode"] = "advise"
    run["manifest"]["isolation"] |= {"tier": "S0", "allowed_below": True}
    run["manifest"]["attempt"] = 2
    run["manifest"]["labels"] = None
    run["intermediates"]["faithful"] = {
        "compared": 893,
        "mismatched": 57,
        "max_rel": 0.21,
        "note": "",
    }
    run["findings"]["findings"].append(
        {
            "kind": "unfaithful_replay",
            "severity": "warning",
            "where": "probabilities",
            "what": "57 of 893 replayed answers differ from what production answered.",
            "remedy": "Check which version answered in production and whether it reads anything outside the request.",
        }
    )
    run["summary"]["flips"] = {
        "n": 900,
        "changed": 24,
        "to_positive": 13,
        "to_negative": 11,
        "mcnemar_p": 0.84,
    }
    return run


def does_not_load():
    """A candidate that onnxruntime refuses: nothing was replayed through it."""
    run = promote()
    for window in run["decision"]["windows"].values():
        window |= {"judged": 0, "reason": "not replayed"}
    return {
        "manifest": run["manifest"],
        "decision": run["decision"]
        | {
            "decision": "ROLLBACK",
            "reason": "candidate_does_not_load",
            "explanation": "The candidate does not load: onnxruntime refuses the file (Invalid model: no opset import). "
            "The baseline loads. No request was replayed.",
            "binding_guardrail": "",
            "next": "Export the candidate again and check it with onnx.checker.",
            "n_requests": 0,
            "guardrails": [],
            "not_compared": ["Nothing was compared: the candidate does not load."],
        },
        "evidence": {"evidence": []},
        "intermediates": {},
        "findings": {
            "findings": [
                {
                    "kind": "candidate_does_not_load",
                    "severity": "harm",
                    "where": "models:/flight-delay/4",
                    "what": "onnxruntime refuses the file: INVALID_GRAPH, no opset import for domain ''.",
                    "remedy": "Export the candidate again.",
                }
            ]
        },
        "summary": {},
    }


EXAMPLES = {
    "promote": promote,
    "rollback": rollback,
    "hold": hold,
    "does_not_load": does_not_load,
}
FILES = ("manifest", "decision", "evidence", "intermediates", "findings", "summary")
