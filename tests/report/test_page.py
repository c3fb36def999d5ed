import base64
import io
import re
from datetime import UTC, date, datetime
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from alchemist_core.report.content import (
    ArmRun,
    ContactSheet,
    ExperimentContent,
    Fact,
    ReportContent,
    SubsetVerdict,
    Tile,
    WithdrawnRow,
)
from alchemist_core.report.gathering import bands_around, encode_thumbnail, pick_band, selected_range
from alchemist_core.report.page import render_experiment, render_report
from alchemist_core.selection.curves import selection_curve
from alchemist_core.selection.strategies import TopK
from alchemist_core.store.overviews import NightOverview, QuarantineReason

ATTRIBUTE_ATTACK = '"><img src=x onerror=alert(1)> {{ 7 * 6 }} {% raw %}'

VOID = {"meta", "img", "br"}


class Outline(HTMLParser):
    """Collects elements and text, and fails on an element that is closed out of turn."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.open, self.text = [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text.append(data)


def page_of(**parts):
    """Render a report with the given parts alone."""
    return render_report(ReportContent("Report", datetime(2026, 3, 2, tzinfo=UTC), **parts))


@pytest.fixture(scope="module")
def page(content):
    return render_report(content)


@pytest.fixture(scope="module")
def outline(page):
    return Outline(page)


def test_the_page_is_well_formed_and_can_be_written(page, outline):
    page.encode("utf-8")
    ids = [attributes["id"] for _, attributes in outline.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) == 6


def test_the_page_needs_no_network_and_no_script(page, outline):
    sources = [
        value
        for _, attributes in outline.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data")
    ]
    # Beside its pictures it names only places in itself.
    assert all(source.startswith(("data:image/jpeg;base64,", "data:image/svg+xml;base64,", "#")) for source in sources)
    ids = {f"#{attributes['id']}" for _, attributes in outline.elements if "id" in attributes}
    assert {source for source in sources if source.startswith("#")} == ids
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in outline.elements}
    assert not any(name.startswith("on") for _, attributes in outline.elements for name in attributes)
    assert "url(" not in page
    assert "default-src 'none'" in str(outline.elements)


def test_a_caption_that_attacks_is_shown_and_does_nothing(page, outline):
    assert "<script" not in page
    assert any(text.startswith("<script>alert(1)</script> & \"quoted\" � � 'caption'") for text in outline.text)


def test_text_from_outside_leaves_no_attribute_and_is_not_read_as_a_template():
    jpeg, attack = encode_thumbnail(np.zeros((8, 8, 3), np.uint8)), ATTRIBUTE_ATTACK
    page = page_of(
        facts=[Fact(attack, attack)],
        sheets=[ContactSheet(0.0, 0.2, (Tile(jpeg, attack, 0.1, 1.0),))],
        quarantine=[QuarantineReason(attack, attack, 1, attack)],
        withdrawn=[WithdrawnRow(attack, date(2026, 3, 1), attack, attack)],
        experiments=[
            ExperimentContent(attack, (attack, attack), (attack, ""), ((attack, attack),), ((attack, "<svg/>"),))
        ],
    )
    found = Outline(page)
    assert [attributes for tag, attributes in found.elements if tag == "img" and "onerror" in attributes] == []
    assert sum(text.strip() == attack for text in found.text) == 17
    assert [attributes["title"] for tag, attributes in found.elements if tag == "p" and "title" in attributes] == [
        attack
    ]
    assert attack in Outline(render_experiment(ExperimentContent("e", (attack,), ("a", ""), (), ()))).text


def test_images_are_real_and_carry_their_captions(content, outline):
    tiles = [tile for sheet in content.sheets for tile in sheet.tiles]
    sources = [attributes["src"] for tag, attributes in outline.elements if tag == "img" and not attributes["alt"]]
    assert len(sources) == len(tiles) == 72
    for source, tile in zip(sources, tiles, strict=True):
        data = base64.b64decode(source.partition(",")[2])
        assert data == tile.jpeg
        assert Image.open(io.BytesIO(data)).size == (96, 96)
    assert {tile.caption for tile in tiles[1:] if len(tile.caption) < 180} <= set(outline.text)


def test_the_verdict_comes_first_and_a_picture_leads_to_its_sample():
    jpeg, page = encode_thumbnail(np.zeros((8, 8, 3), np.uint8)), "https://flow.example/alchemist/samples/7"
    tiles = (
        Tile(jpeg, "a", 0.1, 1.0, 7, "2026-01-01/a.tar/000002", page),
        Tile(jpeg, "b", 0.2, 0.5, 8, "2026-01-01/a.tar/000003"),
    )
    found = page_of(
        verdicts=[SubsetVerdict("best v2", "not shown", "The interval includes 0.")],
        sheets=[ContactSheet(0.0, 0.2, tiles)],
    )
    assert found.index("best v2: not shown to be better than random.") < found.index("Contents") < found.index("<main>")
    assert f'<a href="{page}">sample 7</a>' in found
    assert '<p class="figures" title="2026-01-01/a.tar/000003"><span>sample 8</span></p>' in found


def test_the_table_shows_the_gap_closed_by_a_subset(outline):
    text = " ".join(outline.text)
    # Random's 3.20 to the oracle's 2.75; the subset's 2.80 closes 0.40 of 0.45.
    assert re.search(r"89\s+± 0\s*%", text)
    assert re.search(r"0\.400\s+± 0\.000", text)
    assert "2.850" in text
    assert "oracle" in text
    assert "planted" not in text


def test_without_an_oracle_nothing_is_said_of_a_gap():
    runs = [
        ArmRun("s v1", 0.2, arm, 0, 10, 10, loss) for arm, loss in (("subset", 2.0), ("random", 3.0), ("planted", 1.0))
    ]
    assert page_of(arms=runs).count("Gap closed") == 1 + 1 + 3, "intro, head and a label in each row"
    assert "Gap closed" not in page_of(arms=runs[:2])


def test_every_subset_shows_its_lineage_and_its_warning(content, outline):
    for subset in content.subsets:
        assert any(text.startswith(subset.name) for text in outline.text)
        assert all(step.name in outline.text for step in subset.lineage)
    assert any("strategy shift_gsample drops those" in text for text in outline.text)


def test_a_warning_about_the_production_rater_is_shown_at_the_top():
    page = page_of(warnings=["Small < large"])
    assert page.index("Small &lt; large.") < page.index("<main>")
    assert 'class="warning"' not in page_of()


def test_an_experiment_shows_its_expectation_its_table_and_its_figures(content, outline):
    (experiment,) = content.experiments
    assert set(experiment.notes) <= {text.strip() for text in outline.text}
    assert "5 seeds would show with 80% power" in " ".join(outline.text)
    assert {cell for row in experiment.rows for cell in row if cell} <= set(outline.text)
    figures = [attributes for tag, attributes in outline.elements if tag == "img" and attributes["alt"]]
    assert len(figures) == len(experiment.figures) == 1
    svg = base64.b64decode(figures[0]["src"].partition(",")[2]).decode()
    # The style of a figure stays inside of it.
    assert ".whisker" not in svg
    assert "alignment/auto" in svg


def test_drift_and_cost_are_exported(outline):
    text = " ".join(outline.text)
    assert re.search(r"2026-03-02.*steady.*1,000.*0\.031.*0\.044", text)
    assert re.search(r"corpus-top_k-r20 v1\s+Kind\s+subset\s+Device\s+cpu\s+Time\s+13 min", text)


def test_ranks_have_a_histogram_of_their_own(outline):
    labels = [attributes.get("aria-label", "") for tag, attributes in outline.elements if tag == "svg"]
    assert sum(label.startswith("Histogram of 600 ranks from 0") for label in labels) == 1


def test_the_same_content_gives_the_same_page(content, page):
    assert render_report(content) == page


def test_a_page_before_the_first_rater_names_what_is_missing():
    text = " ".join(Outline(render_report(ReportContent("Report", datetime(2026, 3, 2, tzinfo=UTC)))).text)
    for missing in (
        "No model has been evaluated",
        "Shown after a selection",
        "No subset",
        "No image",
        "No night",
        "Nothing is in",
    ):
        assert missing in text


@pytest.mark.parametrize(
    ("counts", "status", "n_unscored_shards", "account"),
    [
        ((1_004, 1_000, 4), "selectable", 0, "✓ balanced"),
        ((1_004, 998, 4), "selectable", 0, "✗ 2 missing"),
        ((1_004, 1_001, 4), "selectable", 0, "✗ 1 too many"),
        ((1_004, 0, 4), "nothing scored: no production rater", 1, "1,000 not scored yet"),
        ((1_400, 1_000, 310), "partly scored: 1 of 2 shards", 1, "90 not scored yet"),
        ((1_400, 1_000, 310), "stopped by checks: most_locations_are_usable", 1, "90 not scored yet"),
        ((1_400, 1_000, 310), "rejected: damaged", 1, "90 not scored<"),
        ((1_400, 0, 0), "rejected under rater r1: damaged", 1, "1,400 not scored<"),
        ((1_400, 1_300, 10), "stopped by checks: locations_are_scored_or_quarantined", 0, "✗ 90 missing"),
        ((0, 0, 0), "empty", 0, "✓ balanced"),
    ],
)
def test_a_night_whose_accounts_do_not_add_up_reports_it(counts, status, n_unscored_shards, account):
    night = NightOverview("corpus", date(2026, 3, 1), 1, *counts, status, n_unscored_shards)
    assert account in page_of(nights=[night])


def test_the_most_frequent_reason_is_first():
    page = page_of(quarantine=[QuarantineReason("rare", "ingest", 1, ""), QuarantineReason("frequent", "score", 9, "")])
    assert page.index("<code>frequent") < page.index("<code>rare")


def test_a_band_is_shown_from_its_first_rank_to_its_last():
    rank_N = np.random.default_rng(0).permutation(np.linspace(0, 1, 1_001))
    shown = rank_N[pick_band(rank_N, (0.4, 0.8), n=5)]
    assert shown == pytest.approx([0.4, 0.5, 0.6, 0.7, 0.8])
    assert len(pick_band(rank_N, (0.4, 0.8), n=2_000)) == 401
    assert pick_band(rank_N, (2.0, 3.0)).tolist() == []


@pytest.mark.parametrize(
    ("retention", "bands"),
    [
        (0.2, [(0.0, 0.2), (0.2, 1.0)]),
        (0.01, [(0.0, 0.025), (0.025, 1.0)]),
        (1.0, [(0.0, 0.05), (0.05, 0.95), (0.95, 1.0)]),
    ],
)
def test_most_of_the_selected_samples_lie_in_one_of_the_bands(retention, bands):
    rank_N = (np.arange(2_000) + 0.5) / 2_000
    kept = np.arange(round(2_000 * retention))
    selected = selected_range(selection_curve(rank_N, kept, strategy=TopK()))
    assert bands_around(selected) == bands
    assert selected in bands
    assert np.mean((rank_N[kept] >= selected[0]) & (rank_N[kept] <= selected[1])) >= 0.9


def test_a_band_names_the_subset_that_it_holds_most_of():
    page = page_of(sheets=[ContactSheet(0.0, 0.1, ()), ContactSheet(0.1, 0.4, (), "web-r20 v2")])
    assert page.count("in between; most samples of web-r20 v2") == 1
    assert page.count("most samples of") == 1


def test_an_empty_band_and_an_empty_caption_are_reported():
    assert "No eligible sample has a rank in this band" in page_of(sheets=[ContactSheet(0.9, 1.0, ())])
    jpeg = encode_thumbnail(np.zeros((8, 8, 3), np.uint8))
    assert "(empty caption)" in page_of(sheets=[ContactSheet(0.0, 0.2, (Tile(jpeg, "", 0.1, 1.0),))])
