"""The program inside the sandbox: standard library, numpy and onnxruntime, nothing else.

It is shipped as one zip (`sandbox.bundle`) and runs in the environment of the model's version, where
the rest of the product is not installed. The parent uses `frames` and `columns` too, so that both
ends of the pipe read and write by the same rules.
"""
