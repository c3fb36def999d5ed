"""`make rehearsal-flux`: LoRA adapters on FLUX-mini at its real width, with one block of each kind and a T5 of two layers.

At its real depth FLUX-mini holds 3.2 billion weights (6.4 GB in bf16) and T5-XXL 4.8 billion (9.5 GB); a step of one image takes minutes
on two cores. The rater is the miniature: FLUX-mini is a downstream model only.
"""

import json
from pathlib import Path

from tests.rehearsal.chain import FEW_IMAGES, Rehearsal, rehearse
from tests.rehearsal.weights import write_flux, write_flux_components, write_inception, write_weights

BLOCKS = {"n_double_blocks": 1, "n_single_blocks": 1}
SAMPLING = "num_inference_steps = 2\nguidance_scale = 3.5"


class FluxRehearsal(Rehearsal):
    """FLUX-mini as the downstream model of a miniature rater."""

    def write_project(self) -> None:
        """Write the published files, then the project file."""
        flux = write_weights(self.weights, "flux-mini.safetensors", lambda path: write_flux(path, **BLOCKS))
        components = write_weights(self.weights, "flux-components", write_flux_components)
        inception = write_weights(self.weights, "inception.pth", write_inception)
        self.init("tiny")
        (self.folder / "few_images.toml").write_text(FEW_IMAGES.format(sampling=SAMPLING, sampler="flow"))
        self.change("rater", {"proxy_warmup_steps": 20, "max_train_steps": 40, "batch_size": 16})
        self.change("downstream", {
            "preset": "flux_mini", "base_model": str(flux), "flux_components": str(components), "batch_size": 2, "max_train_steps": 2,
            "checkpointing_steps": 2, "seeds": [0], "text_encoder": None,
        })  # fmt: skip
        self.change("evaluation", {"protocols": ["heldout_flow_loss", "few_images.toml"]})
        blocks = "\n".join(f"{name} = {n}" for name, n in BLOCKS.items())
        # A CPU without instructions for bf16 emulates it, which takes many times longer than fp32.
        self.append(
            f'[downstream.flux]\n{blocks}\nweight_dtype = "fp32"\n\n[evaluation.few_images]\nweights = {json.dumps(str(inception))}'
        )


def main(folder: Path, corpus: Path | None) -> None:
    """Rehearse in a folder."""
    rehearse("rehearsal-flux", FluxRehearsal(folder / "flux"), corpus)
