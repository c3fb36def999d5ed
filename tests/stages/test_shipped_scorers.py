"""Shipped scorers through the stage `score`: scores and refusals in the store, and options that change after the registration."""

from pathlib import Path

import pytest
from sqlalchemy import text

from alchemist_core.cli.scorer import CheckConfig, RegisterConfig, RegisterResult, check, register_scorer
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.scorers import vlm
from alchemist_core.stages.score import ScoreConfig, run
from alchemist_core.store.engine import open_store
from tests.scorers.given_networks import SIDE, write_clip
from tests.scorers.vlm_server import serving
from tests.trained_store import TrainedStore

pytestmark = [pytest.mark.db, pytest.mark.e2e]


def ask(query: str) -> list[tuple[object, ...]]:
    with open_store().connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def register_judge(url: str, prompt: str = "Rate {caption}") -> RegisterResult:
    option = (
        f"endpoint={url}", "model=judge-1", f"prompt={prompt}", "outputs=quality:0:10 text:0:1", "image_side=32", "retries=1",
    )  # fmt: skip
    return register_scorer(RegisterConfig(name="judge", use="vlm", option=option))


@pytest.mark.slow
def test_a_model_s_scores_and_refusals_are_stored_and_its_server_may_move(
    trained_store: TrainedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vlm, "BACKOFF_S", 0.001)
    with serving(lambda *_: "503") as busy:
        assert register_judge(busy.url).scores == ["judge_quality", "judge_text"]
        with pytest.raises(DataError, match="status 503"):
            run(ScoreConfig(scorer="judge"))
    assert ask("SELECT count(*) FROM alchemist.quarantined_samples") == [(0,)]

    with serving(lambda sample, _: "refusal" if sample % 5 == 0 else "ok") as server:
        assert not register_judge(server.url).is_new
        result = run(ScoreConfig(scorer="judge"))
    samples = set(server.n_requests)
    assert server.n_requests.total() == len(samples) == 240, "each sample is asked for once, and gives both scores"
    n_refused = sum(sample % 5 == 0 for sample in samples)
    assert 0 < n_refused < len(samples)
    counts = """
        SELECT name, count(score) FROM alchemist.scores JOIN alchemist.raters USING (rater_id) WHERE kind = 'scorer' GROUP BY 1 ORDER BY 1
    """
    n_scored = len(samples) - n_refused
    assert ask(counts) == [("judge_quality", n_scored), ("judge_text", n_scored)]
    assert result.n_quarantined > 0
    details = ask("SELECT DISTINCT reason, detail FROM alchemist.quarantined_samples ORDER BY detail")
    said = "the model refused it: 'I will not rate people.'"
    assert details == [("refused_by_scorer", f"scorer judge_{name}: {said}") for name in ("quality", "text")]
    with pytest.raises(ConfigError, match=r"belongs to another scorer \(other options\)"):
        register_judge(server.url, "Another question about {caption}")


@pytest.mark.slow
def test_clip_scores_a_dataset_and_passes_the_check(trained_store: TrainedStore, tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip")
    found = check(
        CheckConfig(name="alignment", use="clip", option=(f"model={folder}",), dataset="scenes", n_samples=100)
    )
    assert (found.difference, found.n_without_score) == (0.0, 0)
    registered = register_scorer(RegisterConfig(name="alignment", use="clip", option=(f"model={folder}",)))
    assert (registered.scores, registered.image_side) == (["alignment"], SIDE)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config + "\n")
    with pytest.raises(ConfigError, match="is not the one that was registered"):
        run(ScoreConfig(scorer="alignment"))
    (folder / "config.json").write_text(config)
    assert run(ScoreConfig(scorer="alignment")).n_scored == 240
    ((low, high),) = ask(
        "SELECT min(score), max(score) FROM alchemist.scores JOIN alchemist.raters USING (rater_id) WHERE name = 'alignment'"
    )
    assert -1 <= low < high <= 1
