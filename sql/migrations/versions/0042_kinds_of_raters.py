"""A row of `raters` is anything that gives samples scores: a trained rater, a scorer (a class), or scores imported from elsewhere."""

from alembic import op

revision = "0042"
down_revision = "0041"

COMMENTS = {
    ("TABLE", "raters"): (
        "One version of a rater, the model that scores samples. At most one is in production",
        "One version of a rater: a trained network, a scorer (a class) or imported scores. At most one is in production",
    ),
    ("COLUMN", "raters.config"): (
        "Training configuration, as JSON",
        "Training configuration, or what identifies a scorer, as JSON",
    ),
    ("COLUMN", "raters.rule"): ("Scoring rule, such as alignment", "Scoring rule, such as alignment; else the kind"),
    ("COLUMN", "raters.run_id"): ("Run that trained the rater", "Run that trained or registered the rater"),
    ("COLUMN", "raters.is_shadow"): (
        "Whether the rater scores each night beside the production rater, for comparison",
        "Whether the rater scores each night beside the production rater",
    ),
    ("COLUMN", "scores.score"): (
        "Instance logit of the rater: higher is better",
        "Score by the rater, for a trained one its instance logit: higher is better",
    ),
}


def upgrade() -> None:
    op.execute("ALTER TABLE alchemist.raters ADD COLUMN kind varchar NOT NULL DEFAULT 'trained'")
    op.execute(
        "ALTER TABLE alchemist.raters ADD CONSTRAINT ck_raters_kind CHECK (kind IN ('trained', 'scorer', 'imported'))"
    )
    op.execute(
        "COMMENT ON COLUMN alchemist.raters.kind IS "
        "'trained (a network trained here), scorer (a class that scores), or imported (scores computed elsewhere)'"
    )
    for (what, name), (_, new) in COMMENTS.items():
        op.execute(f"COMMENT ON {what} alchemist.{name} IS '{new}'")


def downgrade() -> None:
    op.execute("DELETE FROM alchemist.raters WHERE kind <> 'trained'")
    op.execute("ALTER TABLE alchemist.raters DROP COLUMN kind")
    for (what, name), (old, _) in COMMENTS.items():
        op.execute(f"COMMENT ON {what} alchemist.{name} IS '{old}'")
