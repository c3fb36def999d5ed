"""The tables of research page 037 are those of the trials that git keeps."""

import re
from collections import Counter
from typing import Any

from tests.benchmarks.methods_page import FIGURE_PATH
from tests.benchmarks.study import CONTROLS, PLANS, RECIPES
from tests.benchmarks.study_page import areas, nats, read_trials, table_lines
from tests.benchmarks.world_tables import n_seeds, rows_of
from tests.benchmarks.worlds import read_looks
from tests.benchmarks.worlds_page import ARMS, DRAWINGS, NAME, WORLDS, best, tables

PAGE = FIGURE_PATH.with_name("037-worlds.md")


def is_half(trial: dict[str, Any], cell: dict[str, Any]) -> bool:
    return trial["world"] == "openclipart" and (cell["arm"], cell["retention"]) == ("random", 0.5)


def test_the_lines_of_the_page_are_made_from_the_kept_trials() -> None:
    made = [line for line in tables(read_trials(NAME)) if line]
    written = table_lines(PAGE)
    assert len(written) > 20
    assert made == written


def test_the_page_about_drawings_has_the_areas_of_the_kept_trials_and_what_the_looks_said() -> None:
    page, trials = PAGE.with_name("040-drawings.md"), read_trials(NAME)
    text = page.read_text("utf-8")
    assert table_lines(page) == list(areas(trials, DRAWINGS))
    assert f"{n_seeds(trials, 'openclipart')} of {len(PLANS[NAME].seeds)} corpus seeds" in text
    assert f"Both looks said yes of {Counter(read_looks().values())['good']:,}" in text
    n_kept = {2 * cell["n_samples"] for trial in trials for cell in trial["cells"] if is_half(trial, cell)}
    # Half of the samples of seed 30, and of the others, rounded up.
    kinds = re.findall(r"(?:\(|the |other )([\d,]+)(?=[):]| drawings whose| count)", text)
    assert sum(int(found.replace(",", "")) for found in kinds) in n_kept
    assert f"{min(n_kept):,} to {max(n_kept) - 1:,} samples" in text


def test_the_page_names_the_number_of_trials_and_what_is_shown() -> None:
    trials, page = read_trials(NAME), " ".join(PAGE.read_text("utf-8").split())
    assert f"{len(trials)} of {len(PLANS[NAME].trials())} trials" in page
    assert ", ".join(f"{title} {n_seeds(trials, world)}" for world, title in WORLDS.items()) in page
    shown = {cell: arm for cell, arm in best(trials).items() if arm != "not shown"}
    assert shown == dict.fromkeys(("shifted 20%", "openclipart 20%", "openclipart 50%"), ARMS[CONTROLS[3]])


def test_the_page_names_what_is_shown_for_all_arms_together() -> None:
    page = " ".join(PAGE.read_text("utf-8").split())
    gains = {
        (world, retention, arm): row.gain
        for retention in PLANS[NAME].retentions
        for world, of in rows_of(read_trials(NAME), WORLDS, retention).items()
        for arm, row in of.items()
        if row.gain is not None
    }
    assert {len([key for key in gains if key[:2] == cell]) for cell in {key[:2] for key in gains}} == {7}
    corrected = {key: gain.among(7) for key, gain in gains.items()}
    better = {key for key, gain in corrected.items() if gain.is_positive}
    window, fusion, accepted, both = *RECIPES, CONTROLS[3]
    assert better == {
        *(("shifted", 0.2, arm) for arm in ("planted", "validation", both, window, fusion)),
        *(("openclipart", 0.2, arm) for arm in ("planted", both, fusion, accepted)), ("openclipart", 0.5, both),
    }  # fmt: skip
    worse = {key for key, gain in corrected.items() if gain.high is not None and gain.high < 0}
    assert worse == {
        ("redundant", 0.5, "validation"), ("skewed", 0.5, "validation"), ("real", 0.2, "validation"), ("real", 0.5, "validation"),
        ("real", 0.5, window), ("openclipart", 0.2, "validation"), ("openclipart", 0.5, "validation"), ("openclipart", 0.5, "planted"),
    }  # fmt: skip
    told = {key: nats(corrected[key]).partition(" ")[2] for key in better | worse}
    assert [key for key, interval in told.items() if interval not in page] == []
    on_undamaged = {key for key, gain in gains.items() if gain.high is not None and gain.high < 0 and key[0] == "real"}
    assert {key[1:] for key in on_undamaged - worse} == {
        (0.2, window),
        *((share, arm) for share in (0.2, 0.5) for arm in RECIPES[1:]),
    }
    assert [key for key in on_undamaged - worse if nats(gains[key]) not in page] == []
    alone = {key for key, gain in gains.items() if gain.is_positive and key[2] != "planted"}
    assert {key[:2] for key in alone} == {
        ("shifted", 0.2), ("shifted", 0.5), ("skewed", 0.5), ("openclipart", 0.2), ("openclipart", 0.5),
    }  # fmt: skip
    assert {key for key in alone if key[0] == "skewed"} == {("skewed", 0.5, both)}
    assert (
        "The shifted one and the drawings have it at 20% and 50%, the skewed one at 50% with the validation dataset added"
        in page
    )


def test_the_page_says_what_the_oracle_repeats_and_how_many_test_images_there_are() -> None:
    page = " ".join(PAGE.read_text("utf-8").split())
    n_samples = {
        cell["arm"]: cell["n_samples"]
        for trial in read_trials(NAME)
        for cell in trial["cells"]
        if (trial["world"], cell["retention"]) == ("shifted", 0.2)
    }
    # The corpus has 300 good samples.
    assert n_samples["planted"] == n_samples[RECIPES[2]] > 300
    assert "the oracle, which repeats its samples, too" in page
    # The test images of seeds that choose are others, so each set is half of them.
    assert PLANS[NAME].search_seeds
    assert "all seeds share 500 test images" in page
