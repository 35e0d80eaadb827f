"""Dilated convolutions: VGG16 without its last two poolings as front end, and the context module.

F. Yu, V. Koltun, "Multi-Scale Context Aggregation by Dilated Convolutions", ICLR 2016: equation 2 (the
dilated convolution), table 1 (the context module), section 3 (identity initialisation), section 4 (the
front end).

Departures from the paper

* `padding="same"` pads inside the network with zeros instead of mirroring 186 pixels around the image:
  the same alignment at a fraction of the cost. "paper", the default, is the paper's.
* Scores are interpolated bilinearly from the middle of each cell of 8x8 pixels, and the loss sees every
  pixel. The released code puts each score at the first pixel of its cell and trains on those pixels alone.
* `width`, `fc_channels` and `norm` make networks that train from scratch on a laptop. The defaults are
  VGG16's; batch normalisation came after the paper. The context module never has any.
* Front end and context module are trained together, from one start; the paper trains the front end first.
* Dropout after fc6 and fc7 leaves out whole maps (`Dropout2d`), not single values.
* The paper asks that the noise of the large module's start be small; how small (a hundredth of the central
  weights) is ours.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from course_lib.models.blocks import he_initialisation, mirror
from course_lib.models.imagenet import imagenet_weights
from course_lib.models.vgg import copy_vgg16, vgg_stages

Padding = Literal["paper", "same"]
MARGIN = 186  # pixels that the unpadded front end loses on each side
STRIDE = 8

DILATIONS = (1, 1, 2, 4, 8, 16, 1)
"""Of the context module's seven 3x3 convolutions; a 1x1 convolution ends it."""
WIDTHS = {"basic": (1, 1, 1, 1, 1, 1, 1), "large": (2, 2, 4, 8, 16, 32, 32)}
"""Their output channels, as multiples of the module's own."""


class ContextModule(nn.Module):
    """Features (N, channels, h, w) -> the same shape, each cell having seen 67x67 cells around it.

    Every 3x3 convolution is followed by the truncation max(., 0), the last 1x1 is not, and there is no
    normalisation. Zeros are padded to each layer, as in the released code, so that the size stays.

    Args:
        kind: "basic": `channels` maps throughout; "large": 2 to 32 times as many (table 1).
        initialisation: "identity": the module starts by handing on what is not negative, exactly where it is
            basic and nearly where it is large; "random": Kaiming's normal distribution.
    """

    def __init__(
        self,
        channels: int = 21,
        *,
        kind: Literal["basic", "large"] = "basic",
        initialisation: Literal["identity", "random"] = "identity",
    ):
        super().__init__()
        if kind not in WIDTHS:
            raise ValueError(f'a context module is "basic" or "large", not {kind!r}')
        if initialisation not in ("identity", "random"):
            raise ValueError(f'initialisation is "identity" or "random", not {initialisation!r}')
        self.layers = nn.Sequential()
        before = channels
        for dilation, factor in zip(DILATIONS, WIDTHS[kind], strict=True):
            layer = nn.Conv2d(before, factor * channels, kernel_size=3, padding=dilation, dilation=dilation)
            before = factor * channels
            self.layers += nn.Sequential(layer, nn.ReLU(inplace=True))
        self.layers.append(nn.Conv2d(before, channels, kernel_size=1))
        if initialisation == "random":
            he_initialisation(self.layers)
        else:
            for layer in self.layers:
                if isinstance(layer, nn.Conv2d):
                    start_as_identity(layer, channels, noise=0.0 if kind == "basic" else 0.01)

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)  # (N, channels, h, w)


@torch.no_grad()
def start_as_identity(layer: nn.Conv2d, groups: int, *, noise: float = 0.0) -> None:
    """Initialise a convolution so that it hands on `groups` signals, however many channels carry each.

    An output has the weight C / c_out at its centre for every input that carries its signal, so the
    channels of a signal always add up to the same sum. Source: section 3 of the paper.

    Args:
        layer: The convolution, with c_in input and c_out output channels.
        groups: C, a divisor of both numbers of channels: input a carries signal floor(a C / c_in), output b
            carries floor(b C / c_out).
        noise: Standard deviation of all other weights, as a fraction of the central ones.

    Raises:
        ValueError: Where C does not divide both.
    """
    c_out, c_in = layer.weight.shape[:2]
    if c_in % groups or c_out % groups:
        raise ValueError(f"{groups} signals do not divide {c_in} inputs and {c_out} outputs")
    row, column = (side // 2 for side in layer.kernel_size)
    centre = groups / c_out
    signal_in = torch.arange(c_in) * groups // c_in
    signal_out = torch.arange(c_out) * groups // c_out
    same = signal_out[:, None] == signal_in[None, :]  # (c_out, c_in)
    nn.init.normal_(layer.weight, 0, noise * centre)
    layer.weight[:, :, row, column] = torch.where(same, centre, layer.weight[:, :, row, column])
    nn.init.zeros_(layer.bias)


class FrontEnd(nn.Module):
    """Images (N, 3, H, W) -> class scores (N, classes, ceil(H / 8), ceil(W / 8)): VGG16, but dense.

    pool4 and pool5 are left out with their strides. What follows pool4 is dilated by 2 (conv5) and what
    follows pool5 by 4 (fc6), so that every layer reads its input at the same distances in pixels as before:
    the weights of the classifier fit. Cell 0 is over the middle of the first 8x8 pixels.
    For the arguments see `DilatedNet`. `stages` = 3 ends after pool3, a small field (44 pixels with an `fc_kernel`
    of 1) for images in which the context module alone can see what decides; then nothing is dilated.
    """

    def __init__(
        self,
        num_classes: int = 21,
        *,
        width: int = 64,
        fc_channels: int = 4096,
        norm: bool = False,
        padding: Padding = "paper",
        dropout: float = 0.5,
        imagenet: bool = False,
        stages: int = 5,
        fc_kernel: int = 7,
    ):
        super().__init__()
        if padding not in ("paper", "same"):
            raise ValueError(f'padding is "paper" or "same", not {padding!r}')
        if stages not in (3, 5) or fc_kernel % 2 == 0 or ((stages, fc_kernel) != (5, 7) and padding == "paper"):
            raise ValueError('a front end has 3 or 5 stages and an odd fc_kernel; but for 5 and 7, padding is "same"')
        self.padding = padding
        inside = 1 if padding == "same" else 0
        self.stages = vgg_stages(width, norm)[:stages]
        for number, stage in enumerate(self.stages):
            dilation = 2 if number == 4 else 1
            if number >= 3:
                del stage[-1]  # pool4, pool5
            for layer in stage:
                if isinstance(layer, nn.Conv2d):
                    layer.dilation, layer.padding = (dilation,) * 2, (inside * dilation,) * 2
        channels, dilation = (512 * width // 64, 4) if stages == 5 else (256 * width // 64, 1)
        margin = inside * dilation * (fc_kernel // 2)
        self.fc6 = nn.Conv2d(channels, fc_channels, fc_kernel, dilation=dilation, padding=margin, bias=not norm)
        self.norm6 = nn.BatchNorm2d(fc_channels) if norm else nn.Identity()
        self.fc7 = nn.Conv2d(fc_channels, fc_channels, kernel_size=1, bias=not norm)
        self.norm7 = nn.BatchNorm2d(fc_channels) if norm else nn.Identity()
        self.activation = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout2d(dropout)
        self.score = nn.Conv2d(fc_channels, num_classes, kernel_size=1)
        he_initialisation(self)
        if imagenet and (width, fc_channels, norm, stages, fc_kernel) != (64, 4096, False, 5, 7):
            raise ValueError("ImageNet weights fit width 64, 4096 fc channels, no norm and all of VGG16 only")
        weights = imagenet_weights("vgg16") if imagenet else None
        if weights is not None:
            copy_vgg16(weights, self.stages, self.fc6, self.fc7)

    def features(self, images: Tensor) -> Tensor:
        """Return what the scores are read from: fc7, (N, fc_channels, ceil(H / 8), ceil(W / 8))."""
        if self.padding == "paper":
            below, right = (MARGIN + -side % STRIDE for side in images.shape[-2:])
            images = mirror(images, MARGIN, below, MARGIN, right)  # (N, 3, 8 ceil(H / 8) + 372, ...)
        features = images
        for stage in self.stages:
            features = stage(features)  # (N, 64 .. 512, H/2 .. H/8): the last three at H/8
        features = self.activation(self.norm6(self.fc6(features)))  # (N, fc, H/8, W/8)
        features = self.dropout(features)
        features = self.activation(self.norm7(self.fc7(features)))
        return self.dropout(features)

    def forward(self, images: Tensor) -> Tensor:
        return self.score(self.features(images))  # (N, classes, H/8, W/8)


class DilatedNet(nn.Module):
    """Images (N, 3, H, W), H and W >= 32 -> logits (N, classes, H, W). With context it is "Dilation8".

    Args:
        context: Module after the front end: "none", "basic" or "large".
        context_initialisation: "identity" or "random".
        width: Channels of VGG's first stage.
        fc_channels: Channels of fc6 and fc7.
        norm: Batch normalisation in the front end.
        padding: "paper" (mirrored margin of 186 pixels, none inside) or "same" (zeros inside).
        dropout: Rate after fc6 and fc7.
        imagenet: Start from torchvision's VGG16 (only at full width without norm).
        stages: Stages of VGG16 in the front end, 5 or 3.
        fc_kernel: Side of fc6 in cells.
    """

    def __init__(
        self,
        num_classes: int = 21,
        *,
        context: Literal["none", "basic", "large"] = "basic",
        context_initialisation: Literal["identity", "random"] = "identity",
        width: int = 64,
        fc_channels: int = 4096,
        norm: bool = False,
        padding: Padding = "paper",
        dropout: float = 0.5,
        imagenet: bool = False,
        stages: int = 5,
        fc_kernel: int = 7,
    ):
        super().__init__()
        if context not in ("none", *WIDTHS):
            raise ValueError(f'context is "none", "basic" or "large", not {context!r}')
        self.front_end = FrontEnd(
            num_classes,
            width=width,
            fc_channels=fc_channels,
            norm=norm,
            padding=padding,
            dropout=dropout,
            imagenet=imagenet,
            stages=stages,
            fc_kernel=fc_kernel,
        )
        self.context = nn.Identity()
        if context != "none":
            self.context = ContextModule(num_classes, kind=context, initialisation=context_initialisation)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        scores = self.front_end(images)  # (N, classes, H/8, W/8)
        scores = self.context(scores)
        logits = functional.interpolate(scores, scale_factor=STRIDE, mode="bilinear")
        return logits[..., :height, :width]  # (N, classes, H, W)
