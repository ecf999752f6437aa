"""Logs of other systems → recorded traffic.

formats    one reader a system: its records → `Part`s, or `Refused` with the reason
payloads   JSON, CSV and protobuf bodies → Open Inference messages
staging    pairs halves, drops doubles, survives a kill; one SQLite file beside the traffic
writing    staged exchanges → Parquet files, each exactly once
"""
