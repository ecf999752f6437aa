"""Graphs as intermediates.json holds them."""


def state(name, reads, verdict="equal", **given):
    """One tensor of the baseline's graph."""
    row = {
        "baseline": name, "candidate": name, "operator": "Mul", "tier": "identical",
        "verdict": verdict, "reads": list(reads), "rows": 256, "differing": 0, "relative": 0.0,
        "absolute": 0.0, "floor": 0.0, "why": "",
    }  # fmt: skip
    if verdict == "differs":
        row |= {"differing": 256, "relative": 0.25, "absolute": 12.5}
    if verdict == "not_compared":
        row |= {"candidate": "", "tier": "", "why": "has no partner", "rows": 0}
    return row | given


def graph_of(states, first):
    """The part of intermediates.json about the graph, with one first divergence."""
    equal = sum(s["verdict"] == "equal" for s in states)
    compared = sum(s["verdict"] != "not_compared" for s in states)
    divergence = {
        "baseline": first, "candidate": first, "last_equal": ["x"], "cause": "graph",
        "operators": [[f"Mul → {first}"], [f"Add → {first}"]],
        "changes": [{"kind": "operator", "node": f"Mul → {first}", "name": "", "baseline": "Mul",
                     "candidate": "Add"}],
    }  # fmt: skip
    proof = {"tensors": [first], "output": "y", "rows": 256, "before": 256, "after": 0}
    worst = {"request": "r-7", "inputs": [["x", "1.5"]], "baseline": "3", "candidate": "15.5"}
    return {
        "why": "",
        "report": {
            "requests": 256, "coverage": f"{compared} of {len(states)} tensors matched",
            "compared": compared, "equal": equal, "tiers": {"identical": equal, "name": 3},
            "sketched": False, "states": states, "candidate_only": ["extra"],
            "divergences": [
                {"divergence": divergence, "relation": "", "requests": ["r-7"], "proofs": [],
                 "worst": [worst]}
            ],
            "proofs": [proof], "outputs_differ": True,
            "not_compared": ["baseline Loop → z: its body was not looked into, only its outputs"],
        },
    }  # fmt: skip


def small_graph():
    """Seven tensors of every verdict."""
    return graph_of(
        [
            state("scaled", ["x"]),
            state("unused", ["x"], "not_compared"),
            state("odd", ["x"], "not_compared", tier="name", candidate="odd"),
            state("moved", ["scaled", "odd"], "differs"),
            state("bent", ["moved"], "differs"),
            state("other", ["scaled"]),
            state("y", ["bent", "other"], "differs"),
        ],
        "moved",
    )


def residual_graph(tensors, first):
    """A net of residual blocks: every third tensor adds the one three before; all after `first` differ."""
    states = []
    for i in range(tensors):
        reads = [f"layer/{i - 1}/out" if i else "image"]
        if i >= 3 and i % 3 == 0:
            reads.append(f"layer/{i - 3}/out")
        verdict = "differs" if i >= first else "equal"
        states.append(state(f"layer/{i}/out", reads, verdict))
    return graph_of(states, f"layer/{first}/out")
