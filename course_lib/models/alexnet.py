"""FCN-AlexNet: the first of the networks that the FCN paper turned from classifiers into dense predictors.

J. Long, E. Shelhamer, T. Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, table
1 (FCN-AlexNet); the classifier is A. Krizhevsky, I. Sutskever, G. E. Hinton, "ImageNet Classification with
Deep Convolutional Neural Networks", NIPS 2012. The layers are named as in the receptive fields of B. Zhou et
al., ICLR 2015: pool1, pool2, conv3, conv4, conv5, pool5 see 19, 67, 99, 131, 163 and 195 pixels.

Departures from the paper

* The channels are those of the later one-column AlexNet (torchvision's), without groups or local response
  normalisation; the fields are the same.
* Padding inside the network instead of 100 pixels around the image.
* `width`, `fc_channels` and `norm` make networks that train from scratch on a laptop.
"""

from collections import OrderedDict

from torch import Tensor, nn

from course_lib.models.blocks import BilinearUpsampling, conv_norm_relu


class FCNAlexNet(nn.Module):
    """Images (N, 3, H, W), H and W >= 32 -> logits (N, classes, H, W), from scores at stride 32.

    Args:
        width: Channels of conv1; the others keep their ratio to it.
        fc_channels: Channels of fc6 and fc7.
        norm: Batch normalisation after each convolution.
        dropout: Rate after fc6 and fc7.
    """

    def __init__(
        self,
        num_classes: int = 21,
        *,
        width: int = 64,
        fc_channels: int = 4096,
        norm: bool = False,
        dropout: float = 0.5,
    ):
        super().__init__()
        one, two, three, four = width, 3 * width, 6 * width, 4 * width

        def unit(before: int, after: int, size: int, **options: int) -> nn.Sequential:
            layers = conv_norm_relu(before, after, size, norm=norm, **options)
            nn.init.kaiming_normal_(layers[0].weight, nonlinearity="relu")
            return layers

        self.features = nn.Sequential(
            OrderedDict(
                conv1=unit(3, one, 11, stride=4, padding=2),  # (N, 64, H/4, W/4)
                pool1=nn.MaxPool2d(3, stride=2, padding=1),  # (N, 64, H/8, W/8)
                conv2=unit(one, two, 5),  # (N, 192, H/8, W/8)
                pool2=nn.MaxPool2d(3, stride=2, padding=1),  # (N, 192, H/16, W/16)
                conv3=unit(two, three, 3),  # (N, 384, H/16, W/16)
                conv4=unit(three, four, 3),  # (N, 256, H/16, W/16)
                conv5=unit(four, four, 3),  # (N, 256, H/16, W/16)
                pool5=nn.MaxPool2d(3, stride=2, padding=1),  # (N, 256, H/32, W/32)
            )
        )
        self.fc6 = unit(four, fc_channels, 6)  # (N, fc, H/32 + 1, W/32 + 1)
        self.fc7 = unit(fc_channels, fc_channels, 1)
        self.dropout = nn.Dropout2d(dropout)
        self.score = nn.Conv2d(fc_channels, num_classes, kernel_size=1)
        self.upsample = BilinearUpsampling(num_classes, 32, learned=False)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        features = self.features(images)  # (N, 256, H/32, W/32)
        features = self.dropout(self.fc6(features))  # (N, fc, H/32 + 1, W/32 + 1)
        features = self.dropout(self.fc7(features))
        scores = self.upsample(self.score(features))  # (N, classes, H + 64, W + 64), about
        # cell 0 of the scores is at pixel -13, and at 31.5 of what the upsampling made of it
        return scores[..., 44 : 44 + height, 44 : 44 + width]
