"""A network rebuilt from its structure and weights in PyTorch: what an ONNX graph is held against.

A channel-invariant adaptor may stand in front of the U-Net: it looks at each channel with the same weights and, beside
it, at the maxima over all channels, and gives as many channels as the U-Net takes whatever it was given itself.
Promises: modules carry the names that the package's state dicts have, so that weights go in unchanged.
Refuses: nothing; `structure` has. Needs `torch`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from microtome.models.structure import EMBEDDING, Adaptor, Structure
from microtome.models.unet import DecoderBlock, EncoderBlock, InstanSegUNet, convolution


def _maxima(features: torch.Tensor, channels: int) -> torch.Tensor:
    """Over the channels of each image: [b · channels, k, h, w] to [b, k, h, w]."""
    return features.unflatten(0, (-1, channels)).amax(1)


class MixedEncoder(EncoderBlock):
    """A level of the adaptor: every channel of an image is an item of the batch."""

    def __init__(self, inputs: int, outputs: int, *, pool: bool, norm: bool, concatenates: bool) -> None:
        super().__init__(inputs, outputs, pool=pool, norm=norm)
        self.concatenates = concatenates
        if concatenates:
            self.reduce_block = convolution(2 * outputs, outputs, 3, norm=norm)

    def mixed(self, features: torch.Tensor, channels: int) -> torch.Tensor:
        """Run the level, and put the maxima over an image's channels beside each of them."""
        return _mixed(self, self(features), channels)


class MixedDecoder(DecoderBlock):
    """A level of the adaptor on the way up."""

    def __init__(self, inputs: int, outputs: int, *, norm: bool, concatenates: bool) -> None:
        super().__init__(inputs, outputs, outputs, norm=norm)
        self.concatenates = concatenates
        if concatenates:
            self.reduce_block = convolution(2 * outputs, outputs, 3, norm=norm)

    def mixed(self, features: torch.Tensor, skip: torch.Tensor, channels: int) -> torch.Tensor:
        """Run the level, and put the maxima over an image's channels beside each of them."""
        return _mixed(self, self(features, skip), channels)


def _mixed(level: MixedEncoder | MixedDecoder, features: torch.Tensor, channels: int) -> torch.Tensor:
    beside = _maxima(features, channels).repeat_interleave(channels, 0)
    if not level.concatenates:
        return beside + features
    together: torch.Tensor = level.reduce_block(torch.cat([beside, features], 1))
    return together


class ChannelInvariant(torch.nn.Module):
    """Any number of channels in, `out_channels` out; the order of the channels is not felt."""

    def __init__(self, adaptor: Adaptor, *, norm: bool) -> None:
        super().__init__()
        full, half, quarter = adaptor.layers
        mixing = adaptor.concatenates
        self.conv_0 = MixedEncoder(1, full, pool=False, norm=norm, concatenates=mixing)
        self.down_1 = MixedEncoder(full, half, pool=True, norm=norm, concatenates=mixing)
        self.down_2 = MixedEncoder(half, quarter, pool=True, norm=norm, concatenates=mixing)
        self.upcat_2 = MixedDecoder(quarter, half, norm=norm, concatenates=mixing)
        self.upcat_1 = MixedDecoder(half, full, norm=norm, concatenates=mixing)
        self.final_conv = convolution(full, adaptor.out_channels, 1, active=False, norm=norm)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[b, channels, h, w] to [b, out_channels, h, w]."""
        channels = images.shape[1]
        first = self.conv_0.mixed(images.flatten(0, 1).unsqueeze(1), channels)
        second = self.down_1.mixed(first, channels)
        third = self.down_2.mixed(second, channels)
        upper = self.upcat_2.mixed(third, second, channels)
        adapted: torch.Tensor = self.final_conv(_maxima(self.upcat_1(upper, first), channels))
        return adapted


class AdaptedUNet(InstanSegUNet):
    """A U-Net with its adaptor in front, under the adaptor's own name."""

    def __init__(self, structure: Structure) -> None:
        super().__init__(
            structure.layers,
            channels=structure.in_channels,
            heads=structure.decoders,
            classifier_inputs=EMBEDDING + structure.n_sigma,
            classifier_width=structure.mlp_width,
            norm=structure.batch_norm,
        )
        adaptor = structure.adaptor
        self.AdaptorNet = (
            torch.nn.Identity() if adaptor is None else ChannelInvariant(adaptor, norm=structure.batch_norm)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised float32 [b, channels, h, w] to logits [b, sum of heads, h, w]."""
        return super().forward(self.AdaptorNet(x))


def build(structure: Structure, weights: Mapping[str, NDArray[np.float32]]) -> AdaptedUNet:
    """Build the network with these `bare` weights, ready to be run."""
    network = AdaptedUNet(structure)
    state = network.state_dict()
    state.update((name, torch.from_numpy(np.array(value))) for name, value in weights.items())
    network.load_state_dict(state)
    return network.eval()
