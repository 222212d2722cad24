"""The network as an ONNX graph, written from its weights.

Promises: the same weights give the same bytes, on every machine and whatever versions of torch there are, so that an
imported model has the same digest everywhere. Batch normalisation is folded into the convolutions (in double
precision) and the heads of a decoder are one convolution; nothing else is changed. Batch, height and width are free.
What leaves the graph is what the head takes: five channels for one class of objects. A network with fewer sigmas gets
channels of zeros; one that has a second seed map (where there is anything at all) gets its seeds erased where that
map says no, as its package does.
Refuses: nothing; `structure` has.
Needs `onnx`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microtome.models.folding import fold_normalisation
from microtome.models.structure import ADAPTOR, EMBEDDING, MAX_SIGMA, RGB, Adaptor, Structure, Weights

OPSET, IR_VERSION = 17, 8
CLAMP = (-2.0, 3.0)
_EPSILON = 1e-5


def network_bytes(structure: Structure, weights: Weights, object_class: int, foreground: float) -> bytes:
    """The file `model.onnx` for one class of objects: uint8 pixels and a normalisation in, logits [b, 5, h, w] out.

    `foreground`: probability above which a second seed map lets seeds stand.
    """
    bare = bare_network(structure, weights, object_class, foreground)
    serialised: bytes = fold_normalisation(bare, CLAMP).SerializeToString(deterministic=True)
    return serialised


def bare_network(structure: Structure, weights: Weights, object_class: int, foreground: float) -> Any:  # noqa: ANN401
    """The network alone, an `onnx.ModelProto`: normalised float32 [b, 3, h, w] `x` in, logits [b, 5, h, w] `y` out."""
    import onnx
    from onnx import TensorProto, helper

    writer = _Writer(weights)
    at = "x"
    if structure.adaptor is not None:
        at = writer.adaptor(structure.adaptor, at)
    skips = []
    for level in range(len(structure.layers)):
        at = writer.encoder(f"encoder.{level}", at, pooled=level > 0)
        skips.append(at)
    parts = []
    for number, heads in _needed(structure, object_class):
        features = skips[-1]
        for step in range(len(structure.layers) - 1):
            features = writer.decoder(f"decoders.{number}.decoder.{step}", features, skips[-2 - step])
        parts.append(writer.heads(number, heads, features, structure))
    writer.logits(parts, structure.dim_seeds, foreground)
    graph = helper.make_graph(
        writer.nodes,
        "instanseg",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", RGB, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 5, "h", "w"])],
        initializer=writer.constants,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="microtome"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _needed(structure: Structure, object_class: int) -> list[tuple[int, list[tuple[int, int]]]]:
    """Decoders with the heads that make up one class: (decoder, [(head, 0 to 2: coordinates, sigmas, seeds)])."""
    places = [(d, h) for d, heads in enumerate(structure.decoders) for h in range(len(heads))]
    mine = places[3 * object_class : 3 * object_class + 3]
    decoders = sorted({decoder for decoder, _ in mine})
    return [(d, [(head, role) for role, (owner, head) in enumerate(mine) if owner == d]) for d in decoders]


class _Writer:
    """Writes nodes one after the other; each method returns the name of what it computes."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def encoder(self, name: str, at: str, *, pooled: bool) -> str:
        if pooled:
            at = self._node("MaxPool", [at], f"{name}.pool", kernel_shape=[2, 2], strides=[2, 2])
        shortcut = self._conv(f"{name}.conv0", at)
        at = self._conv(f"{name}.conv2", self._conv(f"{name}.conv1", at))
        return self._refined(name, self._node("Add", [shortcut, at], f"{name}.sum"))

    def decoder(self, name: str, at: str, skip: str) -> str:
        twice = self._constant(f"{name}.twice", np.array([1, 1, 2, 2], np.float32))
        at = self._node(
            "Resize",
            [at, "", twice],
            f"{name}.up",
            coordinate_transformation_mode="asymmetric",
            mode="nearest",
            nearest_mode="floor",
        )
        shortcut = self._conv(f"{name}.conv0", at)
        joined = [self._conv(f"{name}.conv1", at), self._conv(f"{name}.conv_skip", skip)]
        at = self._conv(f"{name}.conv2", self._node("Add", joined, f"{name}.joined"))
        return self._refined(name, self._node("Add", [shortcut, at], f"{name}.sum"))

    def heads(self, decoder: int, heads: Sequence[tuple[int, int]], at: str, structure: Structure) -> str:
        """Write the heads of one decoder as one convolution."""
        kernels, biases = [], []
        for head, role in heads:
            kernel, bias = self._folded(f"decoders.{decoder}.final_block.{head}")
            absent = MAX_SIGMA - structure.n_sigma if role == 1 else 0
            kernels += [kernel, np.zeros((absent, *kernel.shape[1:]), np.float32)]
            biases += [bias, np.zeros(absent, np.float32)]
        name = f"decoders.{decoder}.heads"
        return self._convolution(name, at, np.concatenate(kernels), np.concatenate(biases))

    def logits(self, parts: list[str], dim_seeds: int, foreground: float) -> None:
        """Write `y` from what the decoders gave."""
        whole = parts[0] if len(parts) == 1 else self._node("Concat", parts, "all_heads", axis=1)
        if dim_seeds == 1:
            self.nodes[-1].output[0] = "y"
            return
        sizes = self._constant("channels", np.array([EMBEDDING + MAX_SIGMA, 1, 1], np.int64))
        from onnx import helper

        names = ["shape", "seed_map", "anything"]
        self.nodes.append(helper.make_node("Split", [whole, sizes], names, name="split_heads", axis=1))
        least = self._constant("least", np.array(largest_logit_at(foreground), np.float32))
        kept = self._node("Greater", ["anything", least], "there")
        absent = self._constant("no_seed", np.array(no_seed(), np.float32))
        self._node("Concat", ["shape", self._node("Where", [kept, "seed_map", absent], "seeds")], "y", axis=1)

    def adaptor(self, adaptor: Adaptor, at: str) -> str:
        """Write the channel-invariant network: each of the three channels on its own, with their maxima beside."""
        full, half, _ = adaptor.layers
        at = self._reshape(at, [-1, 1, 0, 0], f"{ADAPTOR}channels")
        first = self._with_maxima(f"{ADAPTOR}conv_0", self.encoder(f"{ADAPTOR}conv_0", at, pooled=False), adaptor, full)
        second = self._with_maxima(
            f"{ADAPTOR}down_1", self.encoder(f"{ADAPTOR}down_1", first, pooled=True), adaptor, half
        )
        third = self._with_maxima(
            f"{ADAPTOR}down_2", self.encoder(f"{ADAPTOR}down_2", second, pooled=True), adaptor, adaptor.layers[2]
        )
        at = self._with_maxima(f"{ADAPTOR}upcat_2", self.decoder(f"{ADAPTOR}upcat_2", third, second), adaptor, half)
        at = self.decoder(f"{ADAPTOR}upcat_1", at, first)
        return self._conv(f"{ADAPTOR}final_conv", self._maxima(f"{ADAPTOR}upcat_1", at, full), active=False)

    def _maxima(self, name: str, at: str, width: int) -> str:
        """Over the channels of each image: [b·3, width, h, w] to [b, width, h, w]."""
        from onnx import helper

        together = self._reshape(at, [-1, RGB * width, 0, 0], f"{name}.together")
        parts = [f"{name}.channel{channel}" for channel in range(RGB)]
        self.nodes.append(helper.make_node("Split", [together], parts, name=f"{name}.split", axis=1))
        return self._node("Max", parts, f"{name}.maxima")

    def _with_maxima(self, name: str, at: str, adaptor: Adaptor, width: int) -> str:
        again = self._node("Concat", [self._maxima(name, at, width)] * RGB, f"{name}.repeated", axis=1)
        maxima = self._reshape(again, [-1, width, 0, 0], f"{name}.beside")
        if not adaptor.concatenates:
            return self._node("Add", [maxima, at], f"{name}.mixed")
        return self._conv(f"{name}.reduce_block", self._node("Concat", [maxima, at], f"{name}.both", axis=1))

    def _refined(self, name: str, at: str) -> str:
        more = self._conv(f"{name}.conv4", self._conv(f"{name}.conv3", at))
        return self._node("Add", [at, more], f"{name}.out")

    def _conv(self, name: str, at: str, *, active: bool = True) -> str:
        at = self._convolution(name, at, *self._folded(name))
        return self._node("Relu", [at], f"{name}.relu") if active else at

    def _convolution(self, name: str, at: str, kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> str:
        size = kernel.shape[2]
        inputs = [at, self._constant(f"{name}.kernel", kernel), self._constant(f"{name}.bias", bias)]
        return self._node("Conv", inputs, name, kernel_shape=[size, size], pads=[size // 2] * 4)

    def _folded(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        kernel = self._weights[f"{name}.0.weight"].astype(np.float64)
        bias = self._weights[f"{name}.0.bias"].astype(np.float64)
        if f"{name}.1.running_var" in self._weights:
            gain, shift, mean, variance = (
                self._weights[f"{name}.1.{part}"].astype(np.float64)
                for part in ("weight", "bias", "running_mean", "running_var")
            )
            factor = gain / np.sqrt(variance + _EPSILON)
            kernel, bias = kernel * factor[:, None, None, None], (bias - mean) * factor + shift
        return kernel.astype(np.float32), bias.astype(np.float32)

    def _reshape(self, at: str, shape: list[int], name: str) -> str:
        return self._node("Reshape", [at, self._constant(f"{name}.shape", np.array(shape, np.int64))], name)

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:  # noqa: ANN401 - onnx's
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output


def no_seed() -> np.float32:
    """The seed map's logit that is exactly 0 after the head's own scaling by 1/15 and shift by 1/2."""
    return np.float32(-7.5)


def largest_logit_at(probability: float) -> np.float32:
    """The largest float32 whose float32 sigmoid does not exceed `probability`: above it a second seed map says yes."""
    one = np.float32(1)

    def sigmoid(logit: np.float32) -> np.float32:
        return one / (one + np.float32(np.exp(-np.float64(logit))))

    bound, middle = np.float32(probability), np.log(probability / (1 - probability))
    below, above = np.float32(middle - 1), np.float32(middle + 1)
    while (between := np.float32((np.float64(below) + np.float64(above)) / 2)) not in {below, above}:
        if sigmoid(between) > bound:
            above = between
        else:
            below = between
    return below
