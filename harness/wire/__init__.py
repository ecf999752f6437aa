"""Open Inference messages ↔ core tensors, both ways."""

SERVICE = "inference.GRPCInferenceService"
"""The public service name; our own stubs live in another proto package."""

MODEL_INFER = f"/{SERVICE}/ModelInfer"
"""Full RPC name of an inference call."""

MODEL_STREAM_INFER = f"/{SERVICE}/ModelStreamInfer"
"""Full RPC name of the bidirectional form."""
