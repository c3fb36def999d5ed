"""Images a second: from tar to the bytes of COPY without Postgres, from tar to committed row with the embedded one, and the rater alone."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from alchemist_core.cores import n_own_cores
from alchemist_core.errors import AlchemistError
from alchemist_core.shards.decoding import open_decoders
from alchemist_core.shards.samples import Reading, Sample, read_samples
from alchemist_core.shards.tars import IMAGE_EXTS
from alchemist_core.store.copy import encode_columns
from alchemist_core.store.leases import LeaseClaim
from alchemist_core.store.ledger import ClaimedShard, UnscoredLocation
from alchemist_core.store.registry import StoredShard
from alchemist_core.training.launching import own_device
from alchemist_core.training.scoring import Claim, PendingShard, Scorer, ScoringPipeline
from tests.benchmarks.jpeg_corpus import WORDS, write_corpus
from tests.benchmarks.rows import Row
from tests.benchmarks.score_pipeline import SHARD_PAIRS, measure_rate, own_store, prepare
from tests.gpu.networks import few_steps, preset_config
from tests.gpu.parts import Given, describe, release_memory, unmeasured


def measure(given: Given) -> Iterator[Row]:
    """Score JPEGs of 512 px with the paper's rater at 256 px; at the smallest size, of 64 px with the rater of tiny."""
    side, n_samples = given.pick((512, 4096), (64, 256))
    # The proxies do not score, so theirs is the smallest size.
    small = {"proxy_depth": 1, "batch_size": 32, "gradient_accumulation_steps": 1}
    config = preset_config(given, "train_rater", given.pick("gpu24", "tiny"), **given.pick(small, {}))
    few_steps(config, given.place / "rater")
    release_memory()
    scorer = Scorer.load(given.place / "rater", own_device())
    alone = _rate_alone(scorer, given.pick(8, 2))
    yield Row(
        "rater alone",
        alone,
        "images/s",
        None,
        None,
        f"{scorer.dtype}, {scorer.image_side} px, {scorer.n_threads} threads",
    )
    write_corpus(given.place / "tars", side=side, n_pairs=n_samples, shard_pairs=SHARD_PAIRS[side])
    rate, n_bytes = _rate_of_pipeline(scorer, given.place / "tars")
    detail = f"{n_samples:,} JPEGs of {side} px; {n_bytes:,} bytes for COPY; {rate / alone:.2f} of the rater alone"
    yield Row("tar to bytes of COPY", rate, "images/s", None, None, detail)
    name = "tar to committed row"
    with ExitStack() as stack:
        try:
            engine = stack.enter_context(own_store(**_options(config)))
        except (AlchemistError, ImportError, OSError) as error:
            yield unmeasured(name, f"the embedded Postgres did not start: {describe(error)}")
            return
        prepare(side, n_samples)
        rate = measure_rate(engine, side, n_samples, 1, has_heuristics=True)
        detail = f"embedded Postgres, 1 process; {rate / alone:.2f} of the rater alone"
        yield Row(name, rate, "images/s", None, None, detail)


def _options(config: Any) -> dict[str, Any]:
    short = {"proxy_warmup_steps": 0, "max_train_steps": 1}
    return config.model_dump(mode="json", exclude_defaults=True) | short


def _rate_alone(scorer: Scorer, n_batches: int) -> float:
    image_BHWC = scorer.make_buffer()
    image_BHWC[:] = np.random.default_rng(0).integers(0, 256, image_BHWC.shape, np.uint8)
    captions = [" ".join(np.random.default_rng(at).choice(WORDS, 8)) for at in range(len(image_BHWC))]
    with ThreadPoolExecutor(scorer.n_threads) as pool:

        def score(n: int) -> None:
            list(pool.map(lambda _: scorer.score_batch(image_BHWC, captions), range(n)))

        score(scorer.n_threads)
        began = time.perf_counter()
        score(n_batches)
    return n_batches * len(captions) / (time.perf_counter() - began)


def _rate_of_pipeline(scorer: Scorer, root: Path) -> tuple[float, int]:
    """Score tars by the platform's pipeline; return images a second, and the bytes that COPY would send."""
    pending = [_pend(number, path) for number, path in enumerate(sorted(root.glob("*.tar")), 1)]
    waiting, sent = iter(pending), []

    def commit(shard: PendingShard) -> None:
        ((_, outcome),) = shard.outcomes()
        rater_id_N = np.ones(len(outcome.sample_id_N), np.int32)
        sent.append(len(encode_columns([rater_id_N, outcome.score_N, outcome.sample_id_N])))

    decoders = open_decoders(n_own_cores(), scorer.image_side)
    with ScoringPipeline([scorer], decoders, commit, rater_names=["gpu"]) as pipeline:
        pipeline.await_ready()
        began = time.perf_counter()
        pipeline.run(lambda: next(waiting, None))
        seconds = time.perf_counter() - began
    return sum(shard.n_samples for shard in pending) / seconds, sum(sent)


def _pend(number: int, path: Path) -> PendingShard:
    """Read the locations in a tar, which a night's ingest has stored before its scoring."""
    with path.open("rb") as file:
        found = [one for one in read_samples(file, path.stat().st_size, Reading()) if isinstance(one, Sample)]
    rows = []
    for at, sample in enumerate(found):
        image = next(part for part in sample.record.files if part.ext in IMAGE_EXTS)
        rows.append(
            UnscoredLocation(
                at, sample.record.key, number * 10**6 + at, sample.caption, sample.image_hash, image.offset, image.size,
                is_measured=False,
            )
        )  # fmt: skip
    shard = StoredShard(number, path.name, b"", len(rows), str(path.parent), 1, date(2026, 1, 1))
    return PendingShard([Claim(ClaimedShard(shard, LeaseClaim("no store", number)), rows)], has_heuristics=True)
