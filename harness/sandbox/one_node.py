"""The smallest model, to see whether a runtime runs at all: y = x, FP32[?], ONNX IR 8, opset 15."""

from __future__ import annotations

ONE_NODE = bytes.fromhex(
    "08083a330a100a017812017922084964656e746974791201675a0d0a017812080a06080112020a00620d0a0179"
    "12080a06080112020a0042040a00100f"
)
