"""A Mask2Former with random weights and two classes, to test how its outputs are read."""

from pathlib import Path

import torch
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig


def save_random_detector(folder: Path) -> Path:
    """Save it as transformers does, and return the folder."""
    torch.manual_seed(0)
    swin = SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=swin, hidden_dim=32, feature_size=32, mask_feature_size=32, num_queries=6, num_labels=2,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, encoder_feedforward_dim=16, dim_feedforward=16,
    )  # fmt: skip
    Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    return folder
