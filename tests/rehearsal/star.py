"""`make rehearsal`: STAR-0.3B, the paper's rater and the published tokenizer at their real width.

Weights are random, in the published layouts. The project file is that of `init` for preset gpu80; only lengths are shortened.
"""

import json
from pathlib import Path

from tests.rehearsal.chain import FEW_IMAGES, SHORT, Rehearsal, rehearse
from tests.rehearsal.weights import write_inception, write_star, write_text_encoder, write_tokenizer, write_weights

SMALL = {**SHORT, "gradient_accumulation_steps": 1, "gradient_checkpointing": True, "mixed_precision": "no"}
SAMPLING = "guidance_scale = 4.0\ntop_k = 600\ntop_p = 0.8"


class StarRehearsal(Rehearsal):
    """STAR as both proxies, as the rater's backbone and as the downstream model."""

    def write_project(self) -> None:
        """Write the published files, then the project file."""
        tokenizer = write_weights(self.weights, "vae_ch160v4096z32.pth", write_tokenizer)
        text = write_weights(self.weights, "text_encoder", write_text_encoder)
        star = write_weights(self.weights, "star-0.3b.safetensors", lambda path: write_star(path, depth=16))
        inception = write_weights(self.weights, "inception.pth", write_inception)
        self.init("gpu80", "--tokenizer-weights", str(tokenizer), "--text-encoder", f"clip:{text}")
        (self.folder / "few_images.toml").write_text(FEW_IMAGES.format(sampling=SAMPLING, sampler="star"))
        self.change("rater", {
            **SMALL, "softmax_group_size": 4, "proxy_warmup_steps": 2, "validation_steps": 2, "score_batch_size": 16,
            "proxy_weights": str(star),
        })  # fmt: skip
        self.change("downstream", {**SMALL, "seeds": [0]})
        self.change("evaluation", {"protocols": ["heldout_loss", "few_images.toml"]})
        self.append(f"[evaluation.few_images]\nweights = {json.dumps(str(inception))}")


def main(folder: Path, corpus: Path | None) -> None:
    """Rehearse in a folder."""
    rehearse("rehearsal", StarRehearsal(folder / "star"), corpus)
