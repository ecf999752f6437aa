"""From what the user wrote to one version, fixed to its bytes: registry, model folder or .onnx file."""

from harness.resolve.pin import pin

__all__ = ["pin"]
