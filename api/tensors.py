"""Tensors of the Open Inference Protocol v2, in JSON and as bytes behind it. Pure functions.

Sources: https://github.com/kserve/open-inference-protocol (required API) and Triton's extensions
"binary tensor data" and "classification".
"""

import base64
import binascii
import json
import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from api.problems import ProblemError
from api.schemas import InferInput, InferRequest
from core.types import Batch

MAX_IMAGES = 64  # in one request


class Output(NamedTuple):
    """One tensor of an answer; `values` in row-major order."""

    name: str
    datatype: str  # FP32 or BYTES
    shape: Sequence[int]
    values: Sequence[Any]


def parse(body: bytes, header_length: str | None) -> tuple[InferRequest, bytes]:
    """The JSON part and the bytes behind it; raises `ProblemError`."""
    length = len(body)
    if header_length is not None:
        if not header_length.isdecimal() or int(header_length) > len(body):
            raise _bad("Inference-Header-Content-Length is not the length of the JSON part")
        length = int(header_length)
    try:
        return InferRequest.model_validate(json.loads(body[:length])), body[length:]
    except ValidationError as error:
        first = error.errors()[0]
        raise _bad(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (ValueError, RecursionError):
        raise _bad("the request is not JSON") from None


def raw_parts(request: InferRequest, behind: bytes) -> list[bytes | None]:
    """The bytes of each input; None for those whose data are in the JSON."""
    parts: list[bytes | None] = []
    for tensor in request.inputs:
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            parts.append(None)
            continue
        if not isinstance(size, int) or not 0 <= size <= len(behind):
            raise _bad(f"{tensor.name}: binary_data_size is more than there is")
        parts.append(behind[:size])
        behind = behind[size:]
    if behind:
        raise _bad("there are more bytes than the inputs name")
    return parts


def images(tensor: InferInput, raw: bytes | None) -> list[bytes]:
    """A BYTES tensor as encoded images: length-prefixed behind the JSON, or base64 in it."""
    number = _elements(tensor)
    found = _in_json(tensor) if raw is None else _prefixed(raw)
    if len(found) != number:
        raise _bad(f"{tensor.name}: shape {tensor.shape} is not that of {len(found)} images")
    return found


def pixels(tensor: InferInput, raw: bytes | None, size_px: int) -> Batch:
    """A UINT8 tensor (N, S, S, 3) that is the model's input already."""
    _elements(tensor)
    if tensor.shape[1:] != [size_px, size_px, 3]:
        raise _bad(f"{tensor.name}: shape must be [N, {size_px}, {size_px}, 3]")
    if raw is not None:
        values = np.frombuffer(raw, dtype=np.uint8)
    else:
        try:
            wide = np.asarray(tensor.data, dtype=np.int64).reshape(-1)
        except (ValueError, TypeError, OverflowError):
            raise _bad(f"{tensor.name}: data are not numbers") from None
        if wide.size and (wide.min() < 0 or wide.max() > 255):
            raise _bad(f"{tensor.name}: values of UINT8 lie between 0 and 255")
        values = wide.astype(np.uint8)
    if values.size != math.prod(tensor.shape):
        raise _bad(f"{tensor.name}: {values.size} values do not fill shape {tensor.shape}")
    batch: Batch = values.reshape(tensor.shape)
    return batch


def classification(
    name: str, scores: NDArray[np.float32], labels: Sequence[str], best: int
) -> Output:
    """Triton's extension: the `best` classes of each row as "score:index:label"."""
    best = min(best, len(labels))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :best]
    words = [
        f"{row[index]:f}:{index}:{labels[index]}"
        for row, indices in zip(scores, order, strict=True)
        for index in indices
    ]
    return Output(name, "BYTES", [len(scores), best], words)


def answer(
    head: dict[str, Any], outputs: Sequence[tuple[Output, bool]]
) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON part where bytes stand behind it."""
    behind = b""
    shown = []
    for output, is_binary in outputs:
        tensor: dict[str, Any] = {
            "name": output.name,
            "datatype": output.datatype,
            "shape": list(output.shape),
        }
        if is_binary:
            data = _encoded(output)
            behind += data
            tensor["parameters"] = {"binary_data_size": len(data)}
        else:
            tensor["data"] = list(output.values)
        shown.append(tensor)
    text = json.dumps({**head, "outputs": shown}, ensure_ascii=False, allow_nan=False).encode()
    has_binary = any(is_binary for _, is_binary in outputs)
    return text + behind, len(text) if has_binary else None


def _elements(tensor: InferInput) -> int:
    if not tensor.shape or any(side < 0 for side in tensor.shape):
        raise _bad(f"{tensor.name}: {tensor.shape} is no shape")
    if not 1 <= tensor.shape[0] <= MAX_IMAGES:
        raise _bad(f"{tensor.name}: send 1 to {MAX_IMAGES} images")
    return math.prod(tensor.shape)


def _prefixed(raw: bytes) -> list[bytes]:
    found: list[bytes] = []
    position = 0
    while position < len(raw):
        if position + 4 > len(raw):
            raise _bad("a BYTES tensor ends within a length")
        (length,) = struct.unpack_from("<I", raw, position)
        position += 4
        if position + length > len(raw):
            raise _bad("a BYTES tensor ends within an element")
        found.append(raw[position : position + length])
        position += length
    return found


def _in_json(tensor: InferInput) -> list[bytes]:
    words = list(_flat(tensor.data))
    try:
        return [base64.b64decode(word, validate=True) for word in words]
    except (TypeError, ValueError, binascii.Error):
        raise _bad(f"{tensor.name}: in JSON, images are strings of base64") from None


def _flat(data: object) -> Sequence[Any]:
    if not isinstance(data, list):
        return [data]
    return [item for part in data for item in _flat(part)] if data else []


def _encoded(output: Output) -> bytes:
    if output.datatype == "FP32":
        return np.asarray(output.values, dtype="<f4").tobytes()
    return b"".join(
        struct.pack("<I", len(word)) + word for word in (text.encode() for text in output.values)
    )


def _bad(detail: str) -> ProblemError:
    return ProblemError("bad_tensor", f"{detail[0].upper()}{detail[1:]}.")
