"""Statistics of captions against a slow count, character by character, and against captions made by hand."""

import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alchemist_core.config import Config
from alchemist_core.scorers.captions import CaptionStatistics
from alchemist_core.scorers.running import ScorerRunner
from alchemist_core.scorers.scorer import Batch

SCORER = CaptionStatistics(Config())


def statistics(captions: list[str]) -> list[dict[str, float]]:
    batch = Batch(np.zeros((len(captions), 0, 0, 3), np.uint8), captions)
    score_PM = ScorerRunner(SCORER, "captions").rate(batch).score_PM
    return [dict(zip(SCORER.outputs, row.tolist(), strict=True)) for row in score_PM]


def slow_statistics(caption: str) -> dict[str, float]:
    visible = [letter for letter in caption if not letter.isspace()]
    letters = [letter for letter in visible if unicodedata.category(letter)[0] in "LM"]
    words = caption.lower().split()
    return {
        "characters": len(caption), "words": len(words),
        "non_letter_ratio": (len(visible) - len(letters)) / max(len(visible), 1),
        "uppercase_ratio": sum(unicodedata.category(letter) in ("Lu", "Lt") for letter in letters) / max(len(letters), 1),
        "repeated_word_ratio": sum(word in words[:at] for at, word in enumerate(words)) / max(len(words), 1),
    }  # fmt: skip


WORDS = st.lists(
    st.sampled_from(["a", "A", "cat", "Cat.", "猫", "e\u0301t\u00e9", "42%", "NOW!", "ǅ", "\u00a0", "\n", "हिन्दी"]),
    max_size=8,
)
CAPTIONS = st.lists(st.one_of(WORDS.map(" ".join), WORDS.map("".join), st.just("")), min_size=1, max_size=6)


@settings(max_examples=60)
@given(captions=CAPTIONS)
def test_counts_and_shares_are_those_of_a_slow_count(captions: list[str]) -> None:
    for found, caption in zip(statistics(captions), captions, strict=True):
        for name, value in slow_statistics(caption).items():
            assert found[name] == pytest.approx(value, abs=1e-6), (name, caption)


@pytest.mark.parametrize(
    ("caption", "has_url", "has_file_name"),
    [
        ("a red cat", 0, 0), ("see https://one.example/cat", 1, 0), ("WWW.cats.example", 1, 0), ("buy it at Cats.com today", 1, 0),
        ("shop.example.co.uk", 1, 0), ("IMG_0042.JPG", 0, 1), ("scan (2).tiff of a letter", 0, 1), ("http://one.example/cat.png", 1, 1),
        ("the end.Then more", 0, 0), ("version 2.0", 0, 0), ("rawness of a giffard", 0, 0), ("e.g. a dog", 0, 0), ("a .com bubble", 0, 0),
    ],
)  # fmt: skip
def test_addresses_and_names_of_files_are_found(caption: str, has_url: int, has_file_name: int) -> None:
    (found,) = statistics([caption])
    assert (found["has_url"], found["has_file_name"]) == (has_url, has_file_name)


def test_a_caption_of_the_longest_allowed_length_is_counted() -> None:
    (found,) = statistics(["ab " * 20_000])
    assert (found["characters"], found["words"]) == (60_000, 20_000)
    assert found["repeated_word_ratio"] == pytest.approx(1 - 1 / 20_000)
    assert re.fullmatch(r"[a-z_]+", SCORER.outputs[-1])


def test_a_caption_s_statistics_do_not_depend_on_the_others() -> None:
    captions = ["A cat", "", "BUY www.a.com NOW", "cat cat dog"]
    assert [statistics([caption])[0] for caption in captions] == statistics(captions)
    assert statistics(captions[::-1])[::-1] == statistics(captions)
