"""Statistics of captions, without a network and without images.

Letters: B samples in a batch · M outputs · W words of all captions.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float32
from numpy.typing import NDArray

from alchemist_core.scorers.scorer import Batch, Scorer

SPACE, NOT_LETTER = r"[\s\p{Z}]", r"[^\p{L}\p{M}\s\p{Z}]"
"""White space; anything else but letters and the marks that belong to them."""
URL = r"(?i)https?://|\bwww\.[\w-]+\.|\b[\w-]+\.(?:com|net|org|info|co\.uk|de|fr|ru|cn|jp)\b"
"""An address with http or www, or a name under one of the common domains."""
FILE_NAME = (
    r"(?i)\b[\w()-]+\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg|heic|raw|psd|pdf|docx?|pptx?|xlsx?|html?|php|mp4|mov|avi)\b"
)
"""A name with a common extension of images, documents, pages or films."""


class CaptionStatistics(Scorer):
    r"""Counts and shares of a caption; they are meant for conditions, such as `caption_words >= 3`, more than for a ranking.

    - `characters`: characters (code points).
    - `words`: parts between white space. A text without spaces, as in Chinese, is one word.
    - `non_letter_ratio`: share of characters other than letters and their marks, white space not counted.
    - `uppercase_ratio`: share of letters in upper case.
    - `repeated_word_ratio`: share of words that occurred before in the caption, upper and lower case alike.
    - `has_url`, `has_file_name`: 1 if it contains an address, or the name of a file such as IMG_0042.jpg; else 0.

    A share of nothing is 0.
    """

    image_side = None
    outputs = (
        "characters", "words", "non_letter_ratio", "uppercase_ratio", "repeated_word_ratio", "has_url", "has_file_name",
    )  # fmt: skip
    batch_size = 1024
    is_padded = False

    def score(self, batch: Batch) -> Float32[np.ndarray, "B M"]:
        """Return the statistics of each caption."""
        captions = pa.array(batch.captions, pa.large_string())
        n_others_B, n_capitals_B, n_spaces_B = (
            pc.count_substring_regex(captions, pattern).to_numpy() for pattern in (NOT_LETTER, r"[\p{Lu}\p{Lt}]", SPACE)
        )
        n_characters_B = pc.utf8_length(captions).to_numpy()
        n_visible_B = n_characters_B - n_spaces_B
        n_words_B, n_repeated_B = _count_words(captions)
        columns = (
            n_characters_B,
            n_words_B,
            _share(n_others_B, n_visible_B),
            _share(n_capitals_B, n_visible_B - n_others_B),
            _share(n_repeated_B, n_words_B),
            *(
                pc.match_substring_regex(captions, pattern).to_numpy(zero_copy_only=False)
                for pattern in (URL, FILE_NAME)
            ),
        )
        return np.stack(columns, 1).astype(np.float32)


def _count_words(captions: pa.LargeStringArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the number of words of each caption, and of those that occurred before in it."""
    # Not utf8_split_whitespace: at a white space at the end of a caption, it reads the memory behind it.
    spaced = pc.utf8_trim(pc.replace_substring_regex(pc.utf8_lower(captions), f"{SPACE}+", " "), " ")
    split = pc.split_pattern(spaced, " ")
    caption_W, word_W = pc.list_parent_indices(split).to_numpy(), pc.list_flatten(split)
    # A caption without words has one that is empty.
    is_word_W = pc.not_equal(word_W, "").to_numpy(zero_copy_only=False)
    code_W = word_W.dictionary_encode().indices.to_numpy()[is_word_W].astype(np.int64)
    caption_W = caption_W[is_word_W]
    _, first = np.unique(caption_W * (len(word_W) + 1) + code_W, return_index=True)
    n_words_B, n_distinct_B = (np.bincount(at, minlength=len(captions)) for at in (caption_W, caption_W[first]))
    return n_words_B, n_words_B - n_distinct_B


def _share(part_B: NDArray[np.int64], all_B: NDArray[np.int64]) -> NDArray[np.float64]:
    return part_B / np.maximum(all_B, 1)
