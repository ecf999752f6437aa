"""What every version really does on the two windows, with all labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.flights.data import HERE, columns
from models.flights.training import session
from models.flights.versions import THRESHOLD, VERSIONS, Version

WINDOWS = {"2013-07..08": (7, 8), "2013-09..10": (9, 10)}
"""Window → local months of scheduled departure."""
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def truth(flights: pd.DataFrame, folder: Path = HERE) -> dict[str, Any]:
    """Scores every scored version on both windows.

    Args:
      flights: `data.requests()`.
      folder: where the .onnx files are.

    Returns:
      {"windows": {window: {version: measures}}} as truth.json holds it; see README.md.
    """
    windows = {}
    for window, months in WINDOWS.items():
        rows = flights[flights["month"].isin(months) & flights["label"].notna()]
        label = rows["label"].to_numpy()
        answers = {v.name: scores(v, rows, folder) for v in VERSIONS if v.scored}
        windows[window] = {
            name: _measures(label, answer, answers["v1"]) for name, answer in answers.items()
        }
    return {
        "question": "arrives more than 15 minutes late, asked one hour before departure",
        "threshold": THRESHOLD,
        "rows": "flights of the local months with a label (cancelled and diverted ones have none)",
        "baseline": "v1",
        "windows": windows,
    }


def scores(version: Version, flights: pd.DataFrame, folder: Path) -> tuple[Floats, Bools]:
    """Probability and decision of a version for some flights, each (n,)."""
    model = session((folder / version.file).read_bytes())
    outputs = [o.name for o in model.get_outputs()]
    found = dict(zip(outputs, model.run(outputs, columns(flights)), strict=True))
    if "probability" in found:
        probability = np.asarray(found["probability"], dtype=np.float64)
    else:
        probability = np.array([row[1] for row in found["probabilities"]], dtype=np.float64)
    return probability, np.asarray(found["label"]) == 1


def table(found: dict[str, Any]) -> str:
    """The truth as a Markdown table per window."""
    lines = []
    for window, versions in found["windows"].items():
        n = versions["v1"]["n"]
        lines += [
            f"{window}, n = {n}",
            "",
            "| version | Brier | AUC | decision rate | Brier − v1 (sd) | flips |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {name} | {m['brier']:.4f} | {m['auc']:.3f} | {m['decision_rate']:.3f} | "
            f"{m['brier_difference']:+.4f} ({m['brier_difference_sd']:.3f}) | {m['flips']:.4f} |"
            for name, m in versions.items()
        ]
        lines.append("")
    return "\n".join(lines)


def _measures(
    label: Floats, answer: tuple[Floats, Bools], baseline: tuple[Floats, Bools]
) -> dict[str, float]:
    probability, decision = answer
    loss = (probability - label) ** 2
    difference = loss - (baseline[0] - label) ** 2
    measured = {
        "brier": loss.mean(),
        "auc": _auc(label, probability),
        "decision_rate": decision.mean(),
        "brier_difference": difference.mean(),
        "brier_difference_sd": difference.std(),
        "flips": (decision != baseline[1]).mean(),
        "score_shift": (probability - baseline[0]).mean(),
        "largest_score_change": np.abs(probability - baseline[0]).max(),
    }
    return {"n": len(label), **{name: round(float(v), 6) for name, v in measured.items()}}


def _auc(label: Floats, probability: Floats) -> float:
    """P(score of a late flight > score of a punctual one), ties counted half."""
    ranks = pd.Series(probability).rank().to_numpy()
    late = label == 1
    n_late = int(late.sum())
    above = ranks[late].sum() - n_late * (n_late + 1) / 2
    return float(above / (n_late * (len(label) - n_late)))
