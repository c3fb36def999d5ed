"""What a training or a scoring run needs: parameters, memory and arithmetic, counted without computing anything.

Networks and steps are the real ones, on torch's fake tensors, which have a shape but no values. A counter sees each tensor appear
and disappear, so the peak includes gradients, activations, temporary tensors and casts to bf16. Not included are the context of
CUDA, about a gigabyte, and what its allocator loses between tensors.

Letters: B samples of a micro-batch · S image tokens · T text tokens · D features · C channels · H W cells of the latents.
"""

import gc
import json
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any, Literal, NamedTuple, cast

import torch
from accelerate import Accelerator
from accelerate.utils import convert_outputs_to_fp32
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from alchemist_core.models.config import TokenizerConfig
from alchemist_core.models.flux import DTYPES, FlowMatching, FluxBatch, FluxText, diffusers, make_transformer
from alchemist_core.models.flux_config import FluxConfig
from alchemist_core.models.star import Star
from alchemist_core.models.text import MiniLm, TextFeatures, WordVectors
from alchemist_core.models.tokenizer import ImageTokens, Tokenizer
from alchemist_core.training.averaging import average_of
from alchemist_core.training.bilevel import make_scoring_rater
from alchemist_core.training.config import DownstreamConfig, MixedPrecision, RaterTrainingConfig
from alchemist_core.training.downstream_training import require_equal_parts
from alchemist_core.training.encoding import kept_bytes
from alchemist_core.training.pinning import caption_tokens
from alchemist_core.training.pmi import PmiRater
from alchemist_core.training.rater_training import N_EVALUATED, make_models, require_whole_groups, samples_per_forward
from alchemist_core.training.samples import Batch
from alchemist_core.training.scoring import count_threads

NumberFormat = Literal["bf16", "fp32"]


class Work(NamedTuple):
    """Arithmetic of one step over all processes, or of one sample: FLOPs, a product with its sum being two, in one number format."""

    flops: float
    number_format: NumberFormat


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds, in bytes, and what a run computes."""

    parameters: Mapping[str, int]
    """Parameters of each network."""
    weights: int
    """Weights of all networks, of frozen encoders too, and the averages of trained ones."""
    optimizer: int
    """AdamW's two moments of each trained weight."""
    step: int
    """Most gradients, activations and temporary tensors at one time."""
    work: Mapping[str, Work]
    """By what is done: `warm-up` and `step` for each step, `images`, `captions` and `scores` for each sample."""
    samples: int = 0
    """Encoded images, which a rater's training on a CPU keeps in memory if they are few."""

    @property
    def peak(self) -> int:
        """Most bytes at one time."""
        return self.weights + self.optimizer + self.step + self.samples


def rater_footprint(
    config: RaterTrainingConfig, *, n_processes: int = 1, n_samples: int = N_EVALUATED, is_gpu: bool = True
) -> Footprint:
    """Count the training of a rater.

    Args:
        config: Its training.
        n_processes: Processes that share a batch.
        n_samples: Samples of both datasets.
        is_gpu: Whether the halves of a step run one after the other; in one process on a CPU two threads run them. A CPU's memory also
            holds the encoded images.

    Raises:
        ConfigError: The processes cannot share a batch.
    """
    require_whole_groups(config, n_processes)
    # Initial weights take no more memory than random ones.
    config = config.model_copy(update={"proxy_weights": None, "rater_weights": None, "rater_init": "scratch"})
    text, sizes = text_shape(config.text_encoder, caption_tokens(config)), config.tokenizer_config
    n_parts = config.gradient_accumulation_steps
    n_micro = max(1, config.batch_size // n_processes // n_parts)
    with _counting() as counter:
        encoders, work = _count_encoders(counter, sizes, text)
        process = _OneProcess(config.mixed_precision, counter)
        networks = config.proxy(sizes, text.dim), config.rater(sizes, text.dim)
        models = make_models(config, cast("Accelerator", process), networks)
        trained = [models.unwrapped(name) for name in models.optimizers]
        # Kept beside the rater: its state at the lowest held-out loss.
        best = [weight.clone() for weight in models.scoring_rater.parameters()]
        weights = counter.begin(has_checkpointing=config.gradient_checkpointing)
        part = _star_batch(2 * n_micro, sizes, text)
        warm_up = counter.flops_of(lambda: models.proxy(*part.between(n_micro, None)).mean().backward())
        models.proxy.zero_grad()
        gradients = sum(_make_gradients(model, is_there=n_parts > 1) for model in trained)
        step = counter.flops_of(lambda: models.read_part(part, n_micro, epoch=0, n_parts=n_parts))
        peak = counter.peak if is_gpu or n_processes > 1 else max(counter.peak, process.peak_of_threads)
        # The processes sum gradients in a copy.
        most = peak - weights + (gradients if n_processes > 1 else 0)
        del part
        for model in trained:
            model.zero_grad()
        counter.begin()
        _evaluate(models.unwrapped("proxy"), min(n_samples, N_EVALUATED, samples_per_forward(sizes)), sizes, text)
        del best
    names = ("proxy", "rater") if config.rule.trains_rater else ("proxy",)
    number_format = _format_of(config.mixed_precision)
    n_all = n_parts * n_processes
    work |= {"warm-up": Work(warm_up * n_all, number_format), "step": Work(step * n_all, number_format)}
    parameters = {name: _n_parameters(models.unwrapped(name)) for name in names} | encoders
    samples = 0 if is_gpu else kept_bytes(n_samples, sizes)
    return Footprint(parameters, weights, 2 * gradients, max(most, counter.peak - weights), work, samples)


def downstream_footprint(config: DownstreamConfig, tokenizer: TokenizerConfig, *, n_processes: int = 1) -> Footprint:
    """Count the training of a downstream model.

    Args:
        config: Its training.
        tokenizer: The rater's tokenizer; FLUX has its own.
        n_processes: Processes that share a batch.

    Raises:
        ConfigError: The processes cannot share a batch.
    """
    require_equal_parts(config, n_processes)
    n_parts = config.gradient_accumulation_steps
    n_micro = max(1, config.batch_size // n_processes // n_parts)
    with _counting() as counter:
        if config.flux is None:
            text = text_shape(config.text_encoder, caption_tokens(config))
            encoders, work = _count_encoders(counter, tokenizer, text)
            model = _make_star(config, tokenizer, text)
        else:
            encoders, work = _count_flux_encoders(counter, config.flux)
            model = _make_flux(config, config.flux)
        prepared = _OneProcess(config.mixed_precision, counter).prepare_model(model)
        average = average_of(model, config.ema_decay) if config.ema_decay else None
        weights = counter.begin(has_checkpointing=_has_checkpointing(config))
        part = _star_batch(n_micro, tokenizer, text) if config.flux is None else _flux_batch(n_micro, config.flux)
        gradients = _make_gradients(model, is_there=n_parts > 1)
        step = counter.flops_of(lambda: prepared(*part).mean().backward())
        most = counter.peak - weights + (gradients if n_processes > 1 else 0)
        del average
    work |= {"step": Work(step * n_parts * n_processes, _format_of(config.mixed_precision, config.flux))}
    return Footprint({"model": _n_parameters(model)} | encoders, weights, 2 * gradients, most, work)


def scoring_footprint(config: RaterTrainingConfig, *, is_gpu: bool = True) -> Footprint:
    """Count the scoring by a rater of this config: on a GPU in bf16, and two batches at a time; on this machine's CPU one per core."""
    text, sizes = text_shape(config.text_encoder, config.caption_tokens), config.tokenizer_config
    with _counting() as counter:
        encoding = _count_encoding(counter, sizes)
        encoders, work = _count_encoders(counter, sizes, text)
        rater = make_scoring_rater(config, config.rater(sizes, text.dim)).eval()
        weights = counter.begin()
        batch = _star_batch(config.score_batch_size, sizes, text)
        if isinstance(rater, PmiRater):
            rater.compare_with(batch.text.rows(torch.arange(config.pmi_captions) % config.score_batch_size))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=is_gpu):
            flops = counter.flops_of(lambda: rater.score(*batch))
        # Each thread encodes the images of its batch, then scores them.
        most = count_threads(is_gpu=is_gpu) * max(counter.peak - weights, encoding)
    work |= {"scores": Work(flops / config.score_batch_size, "bf16" if is_gpu else "fp32")}
    return Footprint({"rater": _n_parameters(rater)} | encoders, weights, 0, most, work)


_CALLS_PER_COLLECTION = 100


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of all tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        self._kept: list[nn.Module] = []
        self._n_calls, self._is_collecting = 0, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self._n_calls += 1
        if self._is_collecting and self._n_calls % _CALLS_PER_COLLECTION == 0:
            gc.collect()
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return found

    def begin(self, *, has_checkpointing: bool = False) -> int:
        """Forget the peak so far; return the bytes that are alive."""
        # Recomputed fake tensors are in reference cycles, in which they would outlive what they stand for.
        self._is_collecting = has_checkpointing
        gc.collect()
        # What is there stays, and is not searched at every collection.
        gc.freeze()
        self.peak = self.now
        return self.now

    def keep(self, network: nn.Module) -> None:
        """Keep a network in memory as long as this counter."""
        self._kept.append(network)

    def flops_of(self, run: Callable[[], object]) -> float:
        """Return the FLOPs of a call."""
        counter = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
        with counter:
            run()
        return float(counter.get_total_flops())

    def _add(self, storage: torch.UntypedStorage) -> None:
        # Views and in-place operations return a storage that was counted.
        if storage in self._seen:
            return
        self._seen.add(storage)
        n_bytes = storage.nbytes()
        self.now += n_bytes
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, n_bytes)

    def _drop(self, n_bytes: int) -> None:
        self.now -= n_bytes


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention_backward_flops(grad_out: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad_out, query, key, value))  # type: ignore[no-untyped-call]


# The fused attention of a CPU, whose memory is that of a GPU's; torch counts the GPU's kernels only.
_CPU_ATTENTION = {
    getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"): _attention_flops,  # noqa: B009  its name is private
    getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward"): _attention_backward_flops,  # noqa: B009  as above
}


class _FakeTensors(FakeTensorMode):  # type: ignore[no-untyped-call]
    """Makes fake tensors."""

    def __init__(self) -> None:
        super().__init__()
        # A module that is moved or converted refuses tensors that something else knows of; this memo only saves time.
        self.fake_tensor_converter.set_tensor_memo = lambda *_: None  # type: ignore[method-assign]


class _WithoutValues(TorchFunctionMode):
    """Answers what torch asks of a tensor's values, which fake tensors do not have."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__:
            # Torch would ask for the address of its values.
            tensor, memo = args
            copied = tensor.detach().clone()
            is_parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(copied, tensor.requires_grad) if is_parameter else copied
            return memo[id(tensor)]
        if func is Tensor.any:
            # A truncated normal is drawn again while any value is out of bounds; fake tensors have none.
            return False
        return func(*args, **(kwargs or {}))


@contextmanager
def _counting() -> Iterator[_Counter]:
    """Count inside of the block; torch's seed and settings are restored afterwards."""
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    with ExitStack() as stack:
        stack.callback(gc.unfreeze)
        stack.callback(torch.use_deterministic_algorithms, is_deterministic)
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(_FakeTensors())
        stack.enter_context(_WithoutValues())
        yield stack.enter_context(_Counter())


class _OneProcess:
    """The part of accelerate's Accelerator that a step uses. Accelerate's own keeps one number format for the whole process."""

    device, scaler = torch.device("cpu"), None
    # With one process a CPU would run the halves of a step in two threads, where nothing would be counted.
    num_processes = 2

    def __init__(self, mixed_precision: MixedPrecision, counter: _Counter) -> None:
        self._dtype = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[mixed_precision]
        self._counter = counter
        self.peak_of_threads = 0
        """Peak if all backward passes of the step had begun together."""

    def prepare_model(self, model: nn.Module, **_: object) -> nn.Module:
        """Run a model's forward in the number format, and return fp32."""
        if self._dtype is not None:
            plain = cast("MethodType", model.forward).__func__
            forward = torch.autocast("cpu", self._dtype)(plain)
            model.forward = MethodType(convert_outputs_to_fp32(forward), model)
        return model

    def unwrap_model(self, model: nn.Module, **_: object) -> nn.Module:
        """Return the model itself."""
        return model

    def backward(self, loss: Tensor) -> None:
        """Compute gradients."""
        counter, before, begun = self._counter, self._counter.peak, self._counter.now
        counter.peak = begun
        loss.backward()  # type: ignore[no-untyped-call]
        self.peak_of_threads = max(self.peak_of_threads, begun) + counter.peak - begun
        counter.peak = max(counter.peak, before)


class TextShape(NamedTuple):
    """Features and tokens of an encoded caption, and what builds the network; None: words are hashed."""

    dim: int
    n_tokens: int
    make: Callable[[], nn.Module] | None


# The text encoder of Stable Diffusion 2.1, for which STAR's published weights were trained.
_SD21_TEXT: dict[str, Any] = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16, "projection_dim": 512,
}  # fmt: skip


def text_shape(name: str, n_tokens: int | None = None) -> TextShape:
    """Return the sizes of a text encoder. A name on a hub is not looked up: it counts as Stable Diffusion 2.1's.

    Args:
        name: As in `load_text_encoder`.
        n_tokens: As in `load_text_encoder`.
    """
    from transformers import BertConfig, BertModel, CLIPTextConfig, CLIPTextModel  # noqa: PLC0415  seconds

    if name == "words":
        return TextShape(WordVectors.dim, WordVectors.n_tokens, None)
    if name == "minilm":
        small = BertConfig(hidden_size=MiniLm.dim, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
        return TextShape(MiniLm.dim, n_tokens or MiniLm.n_first_tokens, lambda: BertModel(small))
    config = _read_clip(Path(name.removeprefix("clip:"))) or CLIPTextConfig(**_SD21_TEXT)
    most = config.max_position_embeddings
    return TextShape(config.hidden_size, min(n_tokens or most, most), lambda: CLIPTextModel(config))


def _read_clip(folder: Path) -> Any:
    from transformers import CLIPTextConfig  # noqa: PLC0415  as above

    files = [place / "config.json" for place in (folder / "text_encoder", folder)]
    found = next((file for file in files if file.is_file()), None)
    return None if found is None else CLIPTextConfig.from_dict(json.loads(found.read_text(encoding="utf-8")))


def _count_encoders(
    counter: _Counter, sizes: TokenizerConfig, text: TextShape
) -> tuple[dict[str, int], dict[str, Work]]:
    """Build the frozen encoders, which stay in memory, and encode one image and one caption."""
    tokenizer = Tokenizer(sizes)
    image_BCHW = torch.zeros(1, 3, sizes.resolution, sizes.resolution)
    with torch.no_grad():
        images = counter.flops_of(lambda: tokenizer.quantise(tokenizer.coder.encode(image_BCHW)))
    parameters, work = {"tokenizer": _n_parameters(tokenizer)}, {"images": Work(images, "fp32")}
    counter.keep(tokenizer)
    if text.make is not None:
        encoder = text.make().eval().requires_grad_(requires_grad=False)
        counter.keep(encoder)
        word_BT = torch.zeros(1, text.n_tokens, dtype=torch.int64)
        with torch.no_grad():
            captions = counter.flops_of(lambda: encoder(input_ids=word_BT))
        parameters["text encoder"], work["captions"] = _n_parameters(encoder), Work(captions, "fp32")
    return parameters, work


@torch.no_grad()
def _count_encoding(counter: _Counter, sizes: TokenizerConfig) -> int:
    """Return the most bytes of a forward of the image tokenizer, beside its weights."""
    tokenizer, side = Tokenizer(sizes), sizes.resolution
    weights = counter.begin()
    tokenizer.quantise(tokenizer.coder.encode(torch.zeros(tokenizer.encode_batch, 3, side, side)))
    return counter.peak - weights


def _star_batch(n_samples: int, sizes: TokenizerConfig, text: TextShape) -> Batch:
    tokens = ImageTokens(
        torch.zeros(n_samples, sizes.n_tokens, dtype=torch.int64),
        torch.zeros(n_samples, sizes.n_tokens, sizes.token_dim),
    )
    token_BTD = torch.zeros(n_samples, text.n_tokens, text.dim)
    mask_BT = torch.ones(n_samples, text.n_tokens, dtype=torch.bool)
    return Batch(tokens, TextFeatures(token_BTD, mask_BT, torch.zeros(n_samples, text.dim)))


@torch.no_grad()
def _evaluate(proxy: nn.Module, n_samples: int, sizes: TokenizerConfig, text: TextShape) -> None:
    proxy(*_star_batch(n_samples, sizes, text))


def _make_star(config: DownstreamConfig, sizes: TokenizerConfig, text: TextShape) -> nn.Module:
    star = Star(config.star(sizes, text.dim))
    star.trunk.has_gradient_checkpointing = config.gradient_checkpointing
    if config.method != "lora":
        return star
    from alchemist_core.models.lora import add_lora  # noqa: PLC0415  peft takes seconds

    return add_lora(star, config.lora_rank)


def _make_flux(config: DownstreamConfig, flux: FluxConfig) -> nn.Module:
    from alchemist_core.models.lora import FLUX_TARGETS, add_lora  # noqa: PLC0415  as above

    with _default_dtype(DTYPES[flux.weight_dtype]):
        transformer = make_transformer(flux)
    if _has_checkpointing(config):
        transformer.enable_gradient_checkpointing()
    return FlowMatching(add_lora(transformer, config.lora_rank, targets=FLUX_TARGETS), flux.guidance_scale)


def _has_checkpointing(config: DownstreamConfig) -> bool:
    return config.gradient_checkpointing or (config.flux is not None and config.flux.gradient_checkpointing)


def _flux_batch(n_samples: int, flux: FluxConfig) -> FluxBatch:
    # The VAE shrinks a side eight times; a token holds 2 × 2 cells.
    side = flux.resolution // 8
    text = FluxText(torch.zeros(n_samples, flux.n_text_tokens, flux.text_dim), torch.zeros(n_samples, flux.pooled_dim))
    return FluxBatch(torch.zeros(n_samples, flux.token_dim // 4, side, side), text)


def _count_flux_encoders(counter: _Counter, flux: FluxConfig) -> tuple[dict[str, int], dict[str, Work]]:
    """Build the encoders of FLUX.1, T5 v1.1 XXL and CLIP ViT-L/14, and encode one image and one caption; the VAE is freed."""
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel  # noqa: PLC0415  seconds

    dtype = DTYPES[flux.weight_dtype]
    t5_config = T5Config(
        vocab_size=32128, d_model=flux.text_dim, d_ff=10240, d_kv=64, num_heads=64, num_layers=24, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    clip_config = CLIPTextConfig(
        hidden_size=flux.pooled_dim, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    with _default_dtype(dtype):
        vae = diffusers().AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=flux.token_dim // 4, block_out_channels=(128, 256, 512, 512), layers_per_block=2,
            use_quant_conv=False, use_post_quant_conv=False,
        )  # fmt: skip
        t5, clip = T5EncoderModel(t5_config).eval(), CLIPTextModel(clip_config).eval()
    for encoder in (t5, clip):
        counter.keep(encoder.requires_grad_(requires_grad=False))
    image_BCHW = torch.zeros(1, 3, flux.resolution, flux.resolution, dtype=dtype)
    word_BT = torch.zeros(1, flux.n_text_tokens, dtype=torch.int64)
    number_format: NumberFormat = "bf16" if dtype == torch.bfloat16 else "fp32"
    with torch.no_grad():
        images = counter.flops_of(lambda: vae.encode(image_BCHW))
        captions = counter.flops_of(lambda: (t5(word_BT), clip(word_BT[:, : clip.config.max_position_embeddings])))
    parameters = {"text encoder": _n_parameters(t5) + _n_parameters(clip)}
    return parameters, {"images": Work(images, number_format), "captions": Work(captions, number_format)}


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Build networks in a number format: fake ones cannot be converted."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _n_parameters(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def _make_gradients(model: nn.Module, *, is_there: bool) -> int:
    """Return the bytes of a model's gradients. All parts but the first find them there when they begin."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    if is_there:
        for weight in trained:
            weight.grad = torch.zeros_like(weight)
    return sum(weight.nbytes for weight in trained)


def _format_of(mixed_precision: MixedPrecision, flux: FluxConfig | None = None) -> NumberFormat:
    # GPUs compute fp16 as fast as bf16.
    is_half = mixed_precision != "no" or (flux is not None and flux.weight_dtype == "bf16")
    return "bf16" if is_half else "fp32"
