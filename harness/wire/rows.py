"""Columns → one request a row: the writing counterpart of `columns`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from harness.core.tensors import Tensors, flat_rows
from harness.wire.contents import datatype_from_array, raw_from_array, raw_from_strings
from harness.wire.gen import open_inference_pb2

pb: Any = open_inference_pb2


def requests_from_rows(model: str, columns: Tensors, ids: Sequence[str]) -> list[bytes]:
    """Serializes n requests of one row each; the same bytes as `request_bytes` one by one.

    Args:
      model: model name.
      columns: per input an array (n, *trailing).
      ids: n request ids.

    Raises:
      MessageError: an array that has no Open Inference form.
    """
    named = pb.ModelInferRequest(model_name=model).SerializeToString()
    descriptors = []
    raws: list[list[bytes]] = []
    for name, column in columns.items():
        datatype = datatype_from_array(name, column)
        shape = (1, *column.shape[1:])
        descriptors.append(
            pb.ModelInferRequest.InferInputTensor(
                name=name, datatype=datatype, shape=shape
            ).SerializeToString()
        )
        if datatype == "BYTES":
            rows = flat_rows(column).tolist()
            raws.append([raw_from_strings(name, row) for row in rows])
            continue
        joined = raw_from_array(name, column)
        size = math.prod(shape) * column.dtype.itemsize
        raws.append([joined[i * size : (i + 1) * size] for i in range(len(ids))])
    # Concatenated messages are one merged message; the view leaves the descriptors serialized.
    return [
        named
        + pb.RequestView(
            id=request_id, tensors=descriptors, raw=[column[i] for column in raws]
        ).SerializeToString()
        for i, request_id in enumerate(ids)
    ]
