"""GenEval's two networks, from folders of weights: Mask2Former finds objects, CLIP names the colour of what their masks cover.

Letters: H W pixels · Q queries.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from alchemist_core.metrics.geneval import COLOURS, Found, ImageHW3
from alchemist_core.models.features import Clip
from alchemist_core.models.pretrained import load_pretrained

MOST_FOUND = 100
"""Largest number of boxes per image, over all classes."""
_SHORT_SIDE, _STRIDE = 800, 32
_GREY = (0x99, 0x99, 0x99)
_TEMPLATES = ("a photo of a {colour} {name}", "a photo of a {colour}-colored {name}", "a photo of a {colour} object")


class Mask2Former:
    """Instance segmentation by transformers.

    Source: Cheng et al. 2022.
    Departs: the official evaluator uses weights trained with mmdetection; transformers reads those of Mask2Former's authors.
    """

    def __init__(self, weights: Path, device: str = "cpu") -> None:
        from transformers import Mask2FormerForUniversalSegmentation  # noqa: PLC0415  seconds

        network: Any = load_pretrained(
            Mask2FormerForUniversalSegmentation, weights, what="a Mask2Former",
            remedy="--detector must name a folder of Mask2Former's weights for transformers, trained on COCO instances; no other "
            "detector is supported.",
        )  # fmt: skip
        self._network = network.requires_grad_(requires_grad=False).to(device)
        self._device = device
        self._mean = torch.tensor([0.485, 0.456, 0.406], device=device).view(3, 1, 1)
        self._spread = torch.tensor([0.229, 0.224, 0.225], device=device).view(3, 1, 1)

    @property
    def n_classes(self) -> int:
        """Number of classes that it finds."""
        return int(self._network.config.num_labels)

    @torch.inference_mode()
    def detect(self, image_HW3: ImageHW3) -> list[Found]:
        """Return the most likely objects, unsorted and unfiltered."""
        pixels_1CHW, size = self._prepare(image_HW3)
        output = self._network(pixels_1CHW)
        probability_QK = output.class_queries_logits[0].softmax(-1)[:, :-1]
        score_M, place_M = probability_QK.flatten().topk(min(MOST_FOUND, probability_QK.numel()))
        query_M, label_M = place_M // probability_QK.shape[1], place_M % probability_QK.shape[1]
        logit_MHW = _masks(
            output.masks_queries_logits[0][query_M], tuple(pixels_1CHW.shape[2:]), size, image_HW3.shape[:2]
        )
        mask_MHW = logit_MHW > 0
        # A box's score is that of its class times the mean probability inside its mask.
        area_M = mask_MHW.sum((1, 2))
        sureness_M = (logit_MHW.sigmoid() * mask_MHW).sum((1, 2)) / (area_M + 1e-6)
        masks = mask_MHW.cpu().numpy()
        scores, labels, areas = ((score_M * sureness_M).tolist(), label_M.tolist(), area_M.tolist())
        return [
            Found(label, _box(mask_HW), score, mask_HW)
            for label, score, area, mask_HW in zip(labels, scores, areas, masks, strict=True)
            if area
        ]

    def _prepare(self, image_HW3: ImageHW3) -> tuple[Tensor, tuple[int, int]]:
        height, width = image_HW3.shape[:2]
        ratio = _SHORT_SIDE / min(height, width)
        size = round(height * ratio), round(width * ratio)
        pixels = torch.from_numpy(np.ascontiguousarray(image_HW3)).to(self._device).permute(2, 0, 1).float() / 255
        resized = functional.interpolate(pixels[None], size, mode="bilinear")[0]
        pads = [-side % _STRIDE for side in size]
        return functional.pad((resized - self._mean) / self._spread, (0, pads[1], 0, pads[0]))[None], size


class ColourNamer:
    """Names one of ten colours by zero-shot classification of a crop whose background is grey.

    Source: Ghosh et al. 2023 (GenEval), its evaluation script.
    """

    def __init__(self, clip: Clip) -> None:
        self._clip = clip
        self._known: dict[str, np.ndarray] = {}

    def name(self, image_HW3: ImageHW3, found: Found, class_name: str) -> str:
        """Return the colour of one object."""
        crop = _crop(image_HW3, found, self._clip.side)
        feature_D = self._clip.features(crop[None])[0]
        return COLOURS[int(np.argmax(self._colours(class_name) @ feature_D))]

    def _colours(self, class_name: str) -> np.ndarray:
        if class_name not in self._known:
            rows = [
                _unit(
                    _unit(
                        self._clip.text_features([one.format(colour=colour, name=class_name) for one in _TEMPLATES])
                    ).mean(0)
                )
                for colour in COLOURS
            ]
            self._known[class_name] = np.stack(rows)
        return self._known[class_name]


def _masks(logit_MHW: Tensor, padded: Sequence[int], size: tuple[int, int], original: Sequence[int]) -> Tensor:
    """Resize masks to the network's input, cut off the padding, and resize them to the image's own size."""
    grown = functional.interpolate(logit_MHW[None], tuple(padded), mode="bilinear", align_corners=False)
    cut = grown[..., : size[0], : size[1]]
    return functional.interpolate(cut, tuple(original), mode="bilinear", align_corners=False)[0]


def _box(mask_HW: np.ndarray) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask_HW.any(1)), np.flatnonzero(mask_HW.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _crop(image_HW3: ImageHW3, found: Found, side: int) -> ImageHW3:
    grey = np.where(found.mask_HW[..., None], image_HW3, np.array(_GREY, np.uint8))
    left, top, right, bottom = (round(end) for end in found.box)
    crop = Image.fromarray(grey[top:bottom, left:right])
    ratio = side / min(crop.size)
    width, height = (max(side, round(each * ratio)) for each in crop.size)
    resized = crop.resize((width, height), Image.Resampling.BICUBIC)
    x, y = (width - side) // 2, (height - side) // 2
    return np.asarray(resized.crop((x, y, x + side, y + side)))


def _unit(feature: np.ndarray) -> np.ndarray:
    unit: np.ndarray = feature / np.linalg.norm(feature, axis=-1, keepdims=True)
    return unit
