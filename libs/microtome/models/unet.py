"""InstanSeg's network in torch.

Promises: the parameters have the names and shapes that the `instanseg` package's own network has (with its pixel
classifier), so weights go both ways; in evaluation mode both give the same numbers.
Refuses: other activations than ReLU, other normalisations than batch normalisation or none.

An encoder of four residual blocks with pooling between them, a decoder that adds (never concatenates) what the encoder
had at that resolution, and three 1x1 heads: two coordinate fields, two widths, one seed map. The pixel classifier does
not run in `forward`: the head and the loss apply it to the pixels around a seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

# The package's own; the running statistics of weights from it were made with these.
_EPSILON, _MOMENTUM = 1e-5, 0.05


def convolution(inputs: int, outputs: int, size: int, *, active: bool = True, norm: bool = True) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, padding=size // 2),
        nn.BatchNorm2d(outputs, eps=_EPSILON, momentum=_MOMENTUM) if norm else nn.Identity(),
        nn.ReLU(inplace=True) if active else nn.Identity(),
    )


class EncoderBlock(nn.Module):
    """Two residual pairs of 3x3 convolutions, after halving the resolution if `pool`."""

    def __init__(self, inputs: int, outputs: int, *, pool: bool, norm: bool = True) -> None:
        super().__init__()
        self.maxpool = nn.MaxPool2d(2, 2) if pool else nn.Identity()
        self.conv0 = convolution(inputs, outputs, 1, norm=norm)
        self.conv1 = convolution(inputs, outputs, 3, norm=norm)
        self.conv2 = convolution(outputs, outputs, 3, norm=norm)
        self.conv3 = convolution(outputs, outputs, 3, norm=norm)
        self.conv4 = convolution(outputs, outputs, 3, norm=norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, inputs, h, w] to [b, outputs, h, w], or half of h and w."""
        x = self.maxpool(x)
        x = self.conv0(x) + self.conv2(self.conv1(x))
        return x + self.conv4(self.conv3(x))


class DecoderBlock(nn.Module):
    """Twice the resolution, and what the encoder had there added in."""

    def __init__(self, inputs: int, skipped: int, outputs: int, *, norm: bool = True) -> None:
        super().__init__()
        self.conv0 = convolution(inputs, outputs, 1, norm=norm)
        self.conv_skip = convolution(skipped, outputs, 1, norm=norm)
        self.conv1 = convolution(inputs, outputs, 3, norm=norm)
        self.conv2 = convolution(outputs, outputs, 3, norm=norm)
        self.conv3 = convolution(outputs, outputs, 3, norm=norm)
        self.conv4 = convolution(outputs, outputs, 3, norm=norm)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """[b, inputs, h, w] and [b, skipped, 2h, 2w] to [b, outputs, 2h, 2w]."""
        x = functional.interpolate(x, scale_factor=2, mode="nearest")
        x = self.conv0(x) + self.conv2(self.conv1(x) + self.conv_skip(skip))
        return x + self.conv4(self.conv3(x))


class Decoder(nn.Module):
    """From the deepest features to one set of output channels at full resolution."""

    def __init__(self, layers: Sequence[int], heads: Sequence[int], *, norm: bool = True) -> None:
        super().__init__()
        deep = list(layers)[::-1]
        self.decoder = nn.ModuleList(
            [DecoderBlock(before, after, after, norm=norm) for before, after in pairwise(deep)]
        )
        self.final_block = nn.ModuleList(
            [convolution(deep[-1], channels, 1, active=False, norm=norm) for channels in heads]
        )

    def forward(self, x: torch.Tensor, skips: Sequence[torch.Tensor]) -> torch.Tensor:
        """Deepest features and the others from shallow to deep; gives [b, sum of heads, h, w]."""
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            x = block(x, skip)
        return torch.cat([head(x) for head in self.final_block], dim=1)


class PixelClassifier(nn.Module):
    """Whether a pixel belongs to a seed, from its embedding relative to the seed's and its two widths."""

    def __init__(self, inputs: int = 4, width: int = 5) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, width)
        self.fc2 = nn.Linear(width, width)
        self.fc3 = nn.Linear(width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, inputs] to logits [n, 1]."""
        return self.fc3(functional.relu(self.fc2(functional.relu(self.fc1(x)))))


class InstanSegUNet(nn.Module):
    """The whole network: normalised float32 [b, channels, h, w] to logits [b, sum of heads, h, w].

    `layers`: channels from the first to the deepest level; `heads`: for each decoder its output channels, 2 and 2 and 1
    for nuclei. Height and width must be multiples of 8.
    """

    def __init__(
        self,
        layers: Sequence[int],
        *,
        channels: int = 3,
        heads: Sequence[Sequence[int]] = ((2, 2, 1),),
        classifier_inputs: int = 4,
        classifier_width: int = 5,
        norm: bool = True,
    ) -> None:
        super().__init__()
        blocks = [EncoderBlock(channels, layers[0], pool=False, norm=norm)]
        blocks += [EncoderBlock(before, after, pool=True, norm=norm) for before, after in pairwise(layers)]
        self.encoder = nn.ModuleList(blocks)
        self.decoders = nn.ModuleList([Decoder(layers, each, norm=norm) for each in heads])
        self.pixel_classifier = PixelClassifier(classifier_inputs, classifier_width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        skips: list[torch.Tensor] = []
        for block in self.encoder:
            x = block(x)
            skips.append(x)
        return torch.cat([decoder(x, skips[:-1]) for decoder in self.decoders], dim=1)
