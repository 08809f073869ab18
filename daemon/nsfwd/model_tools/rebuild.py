"""Rebuild a stored TensorFlow.js network as a plain Keras 3 functional model.

Two spellings are known: *layers* models (a Keras 2 configuration) and *graph* models (TensorFlow operations with the
batch norms folded in). The result uses built-in layers only, so that ``keras.models.load_model(compile=False)`` reads
it on any back end. An operation that is not known is an error, never a guess.
"""

from __future__ import annotations

import base64
from typing import Any

import keras

from nsfwd.errors import BundleError
from nsfwd.model_tools.tfjs import Network

_CARRIED = {
    "Conv2D": ("filters", "kernel_size", "strides", "padding", "dilation_rate", "activation", "use_bias"),
    "DepthwiseConv2D": (
        "kernel_size",
        "strides",
        "padding",
        "dilation_rate",
        "depth_multiplier",
        "activation",
        "use_bias",
    ),
    "BatchNormalization": ("axis", "epsilon", "center", "scale"),
    "ZeroPadding2D": ("padding",),
    "ReLU": ("max_value", "negative_slope", "threshold"),
    "Activation": ("activation",),
    "AveragePooling2D": ("pool_size", "strides", "padding"),
    "MaxPooling2D": ("pool_size", "strides", "padding"),
    "Dense": ("units", "activation", "use_bias"),
    "Dropout": ("rate",),
    "Concatenate": ("axis",),
    "Add": (),
    "Flatten": (),
}
"""Layer -> the keys of its configuration that matter when scoring; initialisers and regularisers do not."""

_VARIABLES = ("kernel", "depthwise_kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
"""Variables in the order in which Keras lists them in ``layer.weights``, whichever of them a layer has."""


def rebuild_layers(network: Network, name: str) -> keras.Model:
    """Rebuild a *layers* model.

    Args:
        network: as stored.
        name: of the model.

    Returns:
        float32 (batch, height, width, 3) -> float32 (batch, labels).

    Raises:
        BundleError: a layer is not known, or a weight is missing or of another shape.
    """
    config = network.topology["model_config"]["config"]
    tensors: dict[str, Any] = {}
    for spelled in config["layers"]:
        kind, own = spelled["class_name"], spelled["config"]
        if kind == "InputLayer":
            tensors[own["name"]] = keras.Input(own["batch_input_shape"][1:], name=own["name"])
            continue
        if kind not in _CARRIED:
            raise BundleError(f"{name}: no rule for the layer {kind}")
        layer = getattr(keras.layers, kind)(name=own["name"], **{key: own[key] for key in _CARRIED[kind]})
        sources = [tensors[node[0]] for node in spelled["inbound_nodes"][0]]
        tensors[own["name"]] = layer(sources if len(sources) > 1 else sources[0])
        _fill(layer, network)
    inputs = [tensors[node[0]] for node in config["input_layers"]]
    outputs = [tensors[node[0]] for node in config["output_layers"]]
    return keras.Model(inputs[0], outputs[0], name=name)


def _fill(layer: keras.Layer, network: Network) -> None:
    if not layer.weights:
        return
    names = [f"{layer.name}/{variable}" for variable in _VARIABLES]
    values = [network.weights[name] for name in names if name in network.weights]
    try:
        layer.set_weights(values)
    except ValueError as error:
        raise BundleError(f"{layer.name}: stored weights do not fit: {str(error)[:200]}") from None


def rebuild_graph(network: Network, name: str) -> keras.Model:
    """Rebuild a *graph* model; arguments, result and errors as for ``rebuild_layers``."""
    return _Graph(network, name).build()


class _Graph:
    """One walk over the nodes, which are stored in the order of evaluation."""

    def __init__(self, network: Network, name: str) -> None:
        self._network = network
        self._name = name
        self._tensors: dict[str, Any] = {}
        self._input: Any = None
        self._rules = {
            "Placeholder": self._placeholder,
            "Mul": self._scale,
            "Sub": self._shift,
            "_FusedConv2D": self._convolution,
            "FusedDepthwiseConv2dNative": self._depthwise,
            "AddV2": self._add,
            "AvgPool": self._pool,
            "Squeeze": self._squeeze,
            "_FusedMatMul": self._dense,
            "Softmax": self._softmax,
            "Identity": self._same,
        }

    def build(self) -> keras.Model:
        output: Any = None
        for node in self._network.topology["node"]:
            if node["op"] == "Const":
                continue
            if node["op"] not in self._rules:
                raise BundleError(f"{self._name}: no rule for the operation {node['op']}")
            output = self._tensors[node["name"]] = self._rules[node["op"]](node)
        return keras.Model(self._input, output, name=self._name)

    def _placeholder(self, node: dict[str, Any]) -> Any:
        sizes = [int(one["size"]) for one in node["attr"]["shape"]["shape"]["dim"]]
        self._input = keras.Input(sizes[1:], name="pixels")
        return self._input

    def _scale(self, node: dict[str, Any]) -> Any:
        tensor, constant = self._one_constant(node)
        return keras.layers.Rescaling(constant, name=_short(node))(tensor)

    def _shift(self, node: dict[str, Any]) -> Any:
        tensor, constant = self._one_constant(node)
        return keras.layers.Rescaling(1.0, offset=-constant, name=_short(node))(tensor)

    def _one_constant(self, node: dict[str, Any]) -> tuple[Any, float]:
        tensors = [self._tensors[name] for name in node["input"] if name in self._tensors]
        constants = [self._network.weights[name] for name in node["input"] if name in self._network.weights]
        second_is_constant = node["input"][1] in self._network.weights
        if len(tensors) != 1 or len(constants) != 1 or constants[0].size != 1:
            raise BundleError(f"{self._name}: {_short(node)} is not one tensor and one number")
        if node["op"] == "Sub" and not second_is_constant:
            raise BundleError(f"{self._name}: {_short(node)} subtracts a tensor from a number")
        return tensors[0], float(constants[0].reshape(()))

    def _convolution(self, node: dict[str, Any]) -> Any:
        kernel, bias = (self._network.weights[name] for name in node["input"][1:3])
        layer = keras.layers.Conv2D(kernel.shape[3], kernel.shape[:2], name=_short(node), **_window(node))
        return self._finish(node, layer, [kernel, bias])

    def _depthwise(self, node: dict[str, Any]) -> Any:
        kernel, bias = (self._network.weights[name] for name in node["input"][1:3])
        layer = keras.layers.DepthwiseConv2D(
            kernel.shape[:2], depth_multiplier=kernel.shape[3], name=_short(node), **_window(node)
        )
        return self._finish(node, layer, [kernel, bias])

    def _dense(self, node: dict[str, Any]) -> Any:
        if node["attr"]["transpose_a"]["b"] or node["attr"]["transpose_b"]["b"]:
            raise BundleError(f"{self._name}: {_short(node)} is transposed")
        kernel, bias = (self._network.weights[name] for name in node["input"][1:3])
        return self._finish(node, keras.layers.Dense(kernel.shape[1], name=_short(node)), [kernel, bias])

    def _finish(self, node: dict[str, Any], layer: keras.Layer, weights: list[Any]) -> Any:
        fused = [_text(one) for one in node["attr"]["fused_ops"]["list"]["s"]]
        if fused not in (["BiasAdd"], ["BiasAdd", "Relu6"]):
            raise BundleError(f"{self._name}: {_short(node)} fuses {fused}")
        tensor = layer(self._tensors[node["input"][0]])
        layer.set_weights(weights)
        if fused[-1] == "Relu6":
            tensor = keras.layers.ReLU(max_value=6.0, name=f"{layer.name}_relu6")(tensor)
        return tensor

    def _add(self, node: dict[str, Any]) -> Any:
        return keras.layers.Add(name=_short(node))([self._tensors[name] for name in node["input"]])

    def _pool(self, node: dict[str, Any]) -> Any:
        sizes = [int(one) for one in node["attr"]["ksize"]["list"]["i"]][1:3]
        window = _window(node)
        window.pop("dilation_rate")
        return keras.layers.AveragePooling2D(sizes, name=_short(node), **window)(self._tensors[node["input"][0]])

    def _squeeze(self, node: dict[str, Any]) -> Any:
        tensor = self._tensors[node["input"][0]]
        if tuple(tensor.shape[1:3]) != (1, 1):
            raise BundleError(f"{self._name}: {_short(node)} drops more than two sides of 1")
        return keras.layers.Flatten(name=_short(node))(tensor)

    def _softmax(self, node: dict[str, Any]) -> Any:
        return keras.layers.Softmax(name=_short(node))(self._tensors[node["input"][0]])

    def _same(self, node: dict[str, Any]) -> Any:
        return self._tensors[node["input"][0]]


def _text(encoded: str) -> str:
    return base64.b64decode(encoded).decode("ascii")


def _window(node: dict[str, Any]) -> dict[str, Any]:
    """Strides, padding and dilation of a node as a Keras layer takes them."""
    attributes = node["attr"]
    if _text(attributes["data_format"]["s"]) != "NHWC":
        raise BundleError(f"{_short(node)}: channels are not last")
    return {
        "strides": [int(one) for one in attributes["strides"]["list"]["i"]][1:3],
        "dilation_rate": [int(one) for one in attributes.get("dilations", {}).get("list", {}).get("i", "1111")][1:3],
        "padding": _text(attributes["padding"]["s"]).lower(),
    }


def _short(node: dict[str, Any]) -> str:
    """A layer name from a node's: the part that tells nodes apart, without slashes, which Keras forbids."""
    return str(node["name"].rsplit("/predict/", 1)[-1].replace("/", "_"))
