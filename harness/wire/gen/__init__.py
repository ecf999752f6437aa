"""Message classes made from protos/*.proto; a test makes them again and compares.

python -m grpc_tools.protoc -Iprotos --python_out=harness/wire/gen open_inference.proto canary_judge.proto
"""
