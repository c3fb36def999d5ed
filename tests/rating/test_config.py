from alchemist_core.rating.config import ScoringRule


def test_only_learnability_and_pmi_train_no_rater_and_only_loss_ranks_plain_samples_first_and_needs_a_dropped_head() -> (
    None
):
    assert {rule.value: (rule.trains_rater, rule.ranks_plain_first, rule.strategy) for rule in ScoringRule} == {
        "alignment": (True, False, "head_gsample"),
        "loss": (True, True, "shift_gsample"),
        "learnability": (False, False, "head_gsample"),
        "pmi": (False, False, "head_gsample"),
    }
