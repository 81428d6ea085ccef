"""The networks that SITE and its black box are made of, in the forms published for MNIST and for CIFAR-10."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock

SiteForm = Literal["mnist", "resnet", "cnn"]
LATENT_CHANNELS = 10
"""Channels of the latent map of the CIFAR-10 forms, whatever the number of classes."""
CAM_LAYERS: dict[SiteForm, str] = {"mnist": "extractor.relu2", "resnet": "extractor.stage4", "cnn": "extractor.relu6"}
"""The last feature map after a ReLU of each form's `extractor`."""
_REDUCTION = 8
_CODE = 128


def image_extractor(channels: int, grid: tuple[int, int]) -> nn.Sequential:
    """Build the extractor for MNIST, `(C, H, W)` to `(64, 1, 1)`, `grid` being a quarter of the sides."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 32, 4, stride=2, padding=1),
            norm1=nn.BatchNorm2d(32),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(32, 64, 4, stride=2, padding=1),
            norm2=nn.BatchNorm2d(64),
            relu2=nn.ReLU(),
            conv3=nn.Conv2d(64, 64, grid, bias=False),
            relu3=nn.ReLU(),
        )
    )


def image_generators(count: int, channels: int, width: int, grid: tuple[int, int]) -> nn.Sequential:
    """Build `count` separate networks side by side as groups, each from `(64, 1, 1)` to `(C, H, W)` in (0, 1)."""
    wide, middle, narrow = count * 2 * width, count * width, count * width // 2
    return nn.Sequential(
        OrderedDict(
            conv1=nn.ConvTranspose2d(count * 64, wide, 1, groups=count, bias=False),
            norm1=nn.BatchNorm2d(wide),
            relu1=nn.ReLU(),
            conv2=nn.ConvTranspose2d(wide, middle, grid, groups=count, bias=False),
            norm2=nn.BatchNorm2d(middle),
            relu2=nn.ReLU(),
            conv3=nn.ConvTranspose2d(middle, narrow, 4, stride=2, padding=1, groups=count, bias=False),
            norm3=nn.BatchNorm2d(narrow),
            relu3=nn.ReLU(),
            conv4=nn.ConvTranspose2d(narrow, count * channels, 4, stride=2, padding=1, groups=count, bias=False),
            sigmoid=nn.Sigmoid(),
        )
    )


def latent_extractor(form: SiteForm, channels: int) -> nn.Sequential:
    """Build the extractor for CIFAR-10, `(C, s, s)` to a latent map `(10, s/8, s/8)` in (-1, 1).

    `"resnet"` is a ResNet-18 of half the usual widths, beginning with 3×3 of stride 1; `"cnn"` six plain convolutions,
    chosen here to have the 1.2 million parameters that are all the paper tells of it.
    """
    layers = _residual_layers(channels) if form == "resnet" else _plain_layers(channels)
    layers["to_latent"] = nn.Conv2d(256, LATENT_CHANNELS, 3, padding=1)
    layers["norm_latent"] = nn.BatchNorm2d(LATENT_CHANNELS)
    layers["tanh"] = nn.Tanh()
    return nn.Sequential(layers)


def latent_encoder(halvings: int) -> nn.Sequential:
    """Build the part that all generators share, `(10, g, g)` to `(128, 1, 1)`, g being 2 to the power `halvings`."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index in range(1, halvings + 1):
        inputs = LATENT_CHANNELS if index == 1 else _CODE
        layers[f"conv{index}"] = nn.Conv2d(inputs, _CODE, 3, stride=2, padding=1)
        if index < halvings:
            layers[f"norm{index}"] = nn.BatchNorm2d(_CODE)
        layers[f"relu{index}"] = nn.LeakyReLU(0.01)
    return nn.Sequential(layers)


def latent_generators(count: int, doublings: int) -> nn.Sequential:
    """Build `count` separate networks side by side as groups, each from `(128, 1, 1)` to `(10, g, g)` in (-1, 1)."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index in range(1, doublings + 1):
        outputs = count * (_CODE if index < doublings else LATENT_CHANNELS)
        layers[f"conv{index}"] = nn.ConvTranspose2d(
            count * _CODE, outputs, 3, stride=2, padding=1, output_padding=1, groups=count
        )
        layers[f"norm{index}"] = nn.BatchNorm2d(outputs)
        layers[f"relu{index}" if index < doublings else "tanh"] = nn.LeakyReLU(0.01) if index < doublings else nn.Tanh()
    return nn.Sequential(layers)


def latent_halvings(side: int) -> int:
    """Return how often the latent map of an image of this side is halved until it is a single position.

    Raises:
        ValueError: the side is not 16, 32, 64, 128, ….

    Example:
        >>> latent_halvings(128)
        4
    """
    grid = side // _REDUCTION
    if side % _REDUCTION or grid < 2 or grid & (grid - 1):
        raise ValueError(f"`side` must be a power of two of at least 16, was {side}")
    return grid.bit_length() - 1


def resized(images: Tensor, side: int) -> Tensor:
    """Bring `(B, C, H, W)` images to `side` × `side` bilinearly, smoothed where they shrink."""
    if tuple(images.shape[-2:]) == (side, side):
        return images
    shrinks = min(images.shape[-2:]) > side
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False, antialias=shrinks)


def _residual_layers(channels: int) -> OrderedDict[str, nn.Module]:
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(channels, 16, 3, padding=1, bias=False), norm1=nn.BatchNorm2d(16), relu1=nn.ReLU()
    )
    inputs = 16
    for stage, (outputs, stride) in enumerate(((32, 1), (64, 2), (128, 2), (256, 2)), start=1):
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
        first = BasicBlock(inputs, outputs, stride=stride, downsample=shortcut)
        layers[f"stage{stage}"] = nn.Sequential(first, BasicBlock(outputs, outputs))
        inputs = outputs
    return layers


def _plain_layers(channels: int) -> OrderedDict[str, nn.Module]:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = channels
    for index, (outputs, stride) in enumerate(((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 2)), start=1):
        layers[f"conv{index}"] = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        layers[f"norm{index}"] = nn.BatchNorm2d(outputs)
        layers[f"relu{index}"] = nn.ReLU()
        inputs = outputs
    return layers
