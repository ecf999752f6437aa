"""What several tests of the pipeline use."""

import json

import numpy as np
import onnx
import pytest

from harness.core.policies import GraphPolicy
from harness.pipeline.compare import compare_models


@pytest.fixture
def compared(tmp_path, windows):
    """Compares two models, given as text, on thirty requests of one row."""

    def compare(old, new, features=(), requests=60):
        paths = []
        for name, text in (("old", old), ("new", new)):
            model = onnx.parser.parse_model(text)
            if features:
                onnx.helper.set_model_props(model, {"harness.features": json.dumps(features)})
            paths.append(str(tmp_path / f"{name}.onnx"))
            onnx.save(model, paths[-1])
        x = np.random.default_rng(3).normal(size=(30, 4)).astype(np.float32)
        np.savez(tmp_path / "in.npz", x=x)
        return compare_models(
            *paths, inputs=[tmp_path / "in.npz"], cache_dir=windows,
            looked_into=GraphPolicy(requests=requests),
        )  # fmt: skip

    return compare
