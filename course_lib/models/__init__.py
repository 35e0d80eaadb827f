"""Networks, one paper a file. `MODELS` and `DETECTORS` name them for recipes; students import the classes."""

from collections.abc import Callable
from functools import partial

from torch import nn

from course_lib.models.alexnet import FCNAlexNet
from course_lib.models.cvae import CVAE
from course_lib.models.decouplednet import DecoupledNet
from course_lib.models.deeplab import DeepLabV3Plus
from course_lib.models.deformable import DeformableDeepLab, DeformableStack
from course_lib.models.dilated import DilatedNet
from course_lib.models.drn import DRN
from course_lib.models.encnet import EncNet
from course_lib.models.enet import ENet
from course_lib.models.erfnet import ERFNet
from course_lib.models.fast_scnn import FastSCNN
from course_lib.models.fcn import FCN
from course_lib.models.fpn import FPN, PyramidDetector, SemanticFPN
from course_lib.models.hrnet import HRNet
from course_lib.models.parsenet import ParseNet
from course_lib.models.pspnet import PSPNet
from course_lib.models.rfcn import RFCN
from course_lib.models.segnet import SegNet
from course_lib.models.segnet_basic import SegNetBasic
from course_lib.models.unet import UNet

MODELS: dict[str, Callable[..., nn.Module]] = {
    "fcn32s": partial(FCN, stride=32),
    "fcn16s": partial(FCN, stride=16),
    "fcn8s": partial(FCN, stride=8),
    "fcn_alexnet": FCNAlexNet,
    "dilated": DilatedNet,
    "deeplabv3plus": DeepLabV3Plus,
    "parsenet": ParseNet,
    "pspnet": PSPNet,
    "unet": UNet,
    "drn": DRN,
    "segnet": SegNet,
    "segnet_basic": SegNetBasic,
    "cvae": CVAE,
    "enet": ENet,
    "erfnet": ERFNet,
    "fast_scnn": FastSCNN,
    "encnet": EncNet,
    "hrnet": HRNet,
    "fpn": FPN,
    "semantic_fpn": SemanticFPN,
    "decouplednet": DecoupledNet,
    "deformable": DeformableDeepLab,
    "deformable_stack": DeformableStack,
}

DETECTORS: dict[str, Callable[..., nn.Module]] = {"rfcn": RFCN, "pyramid_detector": PyramidDetector}
"""Networks that take images and RoIs (R, 5), and return class logits and shifts of the boxes: `course_lib.detection`."""
