"""EncNet: the whole image as a few codewords, which open and close the channels.

H. Zhang, K. Dana, J. Shi and others, "Context Encoding for Semantic Segmentation", CVPR 2018, arXiv 1803.08904:
figure 2 (the module with its encoding, the featuremap attention and the SE-loss).

Departures from the authors' code (zhanghang1989/PyTorch-Encoding, its later form, without the lateral branch)

* The smoothing factors start in (0, 1/D), not in (0, 1). In D dimensions squared distances grow with D, and the
  codeword whose factor happens to be the smallest takes nearly all of the weight at every pixel.
* Residuals are averaged over the pixels, not summed: the sum grows with the image, and the running statistics
  behind it would fit one size alone.
* The backbone has torchvision's stem (7x7), for its weights; logits are resized with pixel areas aligned.
"""

import torch
from torch import Tensor, nn

from course_lib.models.blocks import conv_norm_relu, resize_to
from course_lib.models.resnet import dilated_resnet


class Encoding(nn.Module):
    """Sum up maps against a learned dictionary: (N, D, h, w) -> (N, K, D).

    With r_ik = x_i - d_k the weight of codeword k at pixel i is the softmax over k of `-s_k |r_ik|^2`, and e_k is the
    mean over i of weight times r_ik.

    Args:
        channels: D.
        codewords: K, in U(-1/sqrt(KD), 1/sqrt(KD)) at the start.
    """

    def __init__(self, channels: int, codewords: int):
        super().__init__()
        bound = (codewords * channels) ** -0.5
        self.codewords = nn.Parameter(torch.empty(codewords, channels).uniform_(-bound, bound))
        self.smoothing = nn.Parameter(torch.rand(codewords) / channels)

    def assign(self, features: Tensor) -> Tensor:
        """Return the weight of every codeword at every pixel, (N, K, h, w), 1 in sum."""
        lengths = (features**2).sum(dim=1, keepdim=True) + (self.codewords**2).sum(dim=1).view(1, -1, 1, 1)
        products = nn.functional.conv2d(features, self.codewords[:, :, None, None])
        distances = lengths - 2 * products  # |x|^2 - 2xd + |d|^2: the residuals (N, K, D, h, w) would be large
        return (-self.smoothing.view(1, -1, 1, 1) * distances).softmax(dim=1)

    def forward(self, features: Tensor) -> Tensor:
        weights = self.assign(features).flatten(2)  # (N, K, hw)
        means = weights @ features.flatten(2).transpose(1, 2) / weights.shape[-1]  # (N, K, D)
        return means - weights.mean(dim=2, keepdim=True) * self.codewords


class ContextEncoding(nn.Module):
    """The Context Encoding Module: (N, D, h, w) -> the same maps with gates, and scores of presence (N, classes).

    Args:
        channels: D.
        codewords: K; 0 is global average pooling in place of the encoding, a control.
    """

    def __init__(self, channels: int, num_classes: int, codewords: int):
        super().__init__()
        self.project = conv_norm_relu(channels, channels, 1)
        if codewords:
            self.encoding = Encoding(channels, codewords)
            self.norm = nn.Sequential(nn.BatchNorm1d(codewords), nn.ReLU(inplace=True))
        else:
            self.encoding = None
        self.gate = nn.Linear(channels, channels)
        self.presence = nn.Linear(channels, num_classes)

    def summary(self, features: Tensor) -> Tensor:
        """Return the encoded image, (N, D)."""
        x = self.project(features)
        if self.encoding is None:
            return x.mean(dim=(2, 3))
        return self.norm(self.encoding(x)).mean(dim=1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        summary = self.summary(features)
        gates = self.gate(summary).sigmoid()[:, :, None, None]  # (N, D, 1, 1)
        return torch.relu(features + features * gates), self.presence(summary)


class EncNet(nn.Module):
    """Images (N, 3, H, W), H and W >= 32 -> logits (N, classes, H, W).

    Args:
        depth: Of the backbone, as `width`, `output_stride` and `imagenet`: see `dilated_resnet`.
        groups: How many of the backbone's four groups of blocks there are: a short one sees little of an image.
        codewords: K of the encoding; 0 is global average pooling in its place.
        aux: With the auxiliary head on the third group of blocks.
        dropout: Rate before both classifiers.

    Raises:
        ValueError: For an auxiliary head on a backbone without a third group.
    """

    def __init__(
        self,
        num_classes: int = 21,
        *,
        depth: int = 50,
        width: int = 64,
        output_stride: int = 8,
        groups: int = 4,
        codewords: int = 32,
        aux: bool = True,
        dropout: float = 0.1,
        imagenet: bool = False,
    ):
        super().__init__()
        self.backbone = dilated_resnet(depth, width=width, output_stride=output_stride, imagenet=imagenet)
        self.backbone.shorten(groups, aux=aux)
        last = self.backbone.channels[-1]
        self.reduce = conv_norm_relu(last, last // 4)
        self.context = ContextEncoding(last // 4, num_classes, codewords)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Conv2d(last // 4, num_classes, kernel_size=1))
        self.aux_head = None
        if aux:
            third = self.backbone.channels[2]
            self.aux_head = nn.Sequential(
                *conv_norm_relu(third, third // 4), nn.Dropout(dropout), nn.Conv2d(third // 4, num_classes, 1)
            )

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the features of the backbone's groups, strides 4, 8 and so on, at most `output_stride`."""
        return self.backbone(images)

    def forward(self, images: Tensor) -> Tensor:
        gated, _ = self.context(self.reduce(self.encode(images)[-1]))  # (N, 512, H/8, W/8)
        return resize_to(self.classifier(gated), images.shape[-2:])

    def forward_with_presence(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the logits (N, classes, H, W) and the scores (N, classes) of the classes that are somewhere.

        With an auxiliary head its logits (N, classes, H, W) are the third. `losses.presence_objective` trains on all.
        """
        size, features = images.shape[-2:], self.encode(images)
        gated, presence = self.context(self.reduce(features[-1]))
        logits = resize_to(self.classifier(gated), size)
        if self.aux_head is None:
            return logits, presence
        return logits, presence, resize_to(self.aux_head(features[2]), size)
