"""Read a TensorFlow.js network that was packed into JavaScript modules: topology and weights as plain values.

The JavaScript is parsed as a literal, never executed. Knows the file format alone: no Keras, no files, no network.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import chompjs
import numpy as np

from nsfwd.errors import BundleError

Array = np.ndarray[Any, np.dtype[np.float32]]

_LITERAL = re.compile(r"\.exports=(?=\{(?:modelTopology|format):)")
_SHARD = re.compile(r'\.exports="([A-Za-z0-9+/=]*)"')
_MINIFIED = {"null": None, "!0": True, "!1": False}


@dataclass(frozen=True, slots=True)
class Network:
    """A network as it was stored: its topology, and its weights by name, as float32."""

    topology: dict[str, Any]
    weights: dict[str, Array]


def parse_module(script: str) -> dict[str, Any]:
    """The object literal that a model's module exports.

    Raises:
        BundleError: there is none that can be read; the package is not what the catalogue says.
    """
    start = _LITERAL.search(script)
    if start is None:
        raise BundleError("the model's JavaScript exports no model literal")
    try:
        document = chompjs.parse_js_object(script[start.end() :])
    except ValueError as error:
        raise BundleError(f"the model's JavaScript literal cannot be read: {str(error)[:200]}") from None
    if not isinstance(document, dict):
        raise BundleError("the model's JavaScript literal is not an object")
    restored: dict[str, Any] = restore(document)
    return restored


def restore(value: Any) -> Any:
    """Give minified words their meaning again: the parser leaves ``null``, ``!0`` and ``!1`` as strings."""
    if isinstance(value, dict):
        return {key: restore(one) for key, one in value.items()}
    if isinstance(value, list):
        return [restore(one) for one in value]
    return _MINIFIED.get(value, value) if isinstance(value, str) else value


def shard_names(document: dict[str, Any]) -> list[str]:
    """Names of the shards that hold the weights, in order."""
    return [path for group in document["weightsManifest"] for path in group["paths"]]


def read_shard(script: str) -> bytes:
    """The bytes that a shard's module exports as base64.

    Raises:
        BundleError: it exports none.
    """
    found = _SHARD.search(script)
    if found is None:
        raise BundleError("a weight shard exports no base64 text")
    try:
        return base64.b64decode(found.group(1), validate=True)
    except binascii.Error as error:
        raise BundleError(f"a weight shard is not base64: {error}") from None


def dequantise(entries: Sequence[dict[str, Any]], data: bytes) -> dict[str, Array]:
    """Turn stored bytes into float32 tensors: ``value = q * scale + min`` for each tensor, in stored order.

    Args:
        entries: of the weights manifest: name, shape, dtype and quantization of each tensor.
        data: all shards of the group, joined.

    Raises:
        BundleError: a kind of storage that the known packages do not use, or too few or too many bytes.

    Source:
        tfjs-core ``io_utils.decodeWeights``: computed in double precision, stored as float32.
    """
    tensors: dict[str, Array] = {}
    at = 0
    for entry in entries:
        quantization = entry.get("quantization") or {}
        if entry["dtype"] != "float32" or quantization.get("dtype") != "uint8":
            raise BundleError(f"{entry['name']}: only float32 weights quantised to uint8 are known")
        count = int(np.prod(entry["shape"], dtype=np.int64))
        stored = np.frombuffer(data, np.uint8, count, at) if at + count <= len(data) else None
        if stored is None:
            raise BundleError(f"{entry['name']}: the weight shards end too early")
        values = stored.astype(np.float64) * quantization["scale"] + quantization["min"]
        tensors[entry["name"]] = values.astype(np.float32).reshape(entry["shape"])
        at += count
    if at != len(data):
        raise BundleError(f"the weight shards hold {len(data)} bytes, the manifest {at}")
    return tensors


def read_network(document: dict[str, Any], shard: Callable[[str], str]) -> Network:
    """Bring topology and weights together.

    Args:
        document: from ``parse_module``.
        shard: shard name -> the text of its module.

    Raises:
        BundleError: see ``read_shard`` and ``dequantise``.
    """
    weights: dict[str, Array] = {}
    for group in document["weightsManifest"]:
        data = b"".join(read_shard(shard(name)) for name in group["paths"])
        weights.update(dequantise(group["weights"], data))
    return Network(document["modelTopology"], weights)
