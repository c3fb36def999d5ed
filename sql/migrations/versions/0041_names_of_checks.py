"""Rename checks, so that each name says what must hold, and the former word `region` in the measurements of a rank window."""

import sqlalchemy as sa
from alembic import op

revision = "0041"
down_revision = "0040"

CHECKS = {
    "locations_are_kept_or_quarantined": "records_are_registered_or_quarantined",
    "captions_are_no_garbage": "few_captions_are_garbage",
    "few_pairs_came_twice": "few_samples_are_repeated",
    "subset_has_its_size": "subset_has_its_recorded_size",
    "membership_is_stored": "members_are_stored",
    "the_head_is_cut": "no_member_is_in_the_dropped_ranks",
    "the_head_cut_drops_its_share": "dropped_share_matches_drop_top_ratio",
    "strategy_fits_the_rating_rule": "strategy_fits_the_scoring_rule",
    "values_are_measured_on_something": "values_are_measured_on_samples",
    "values_have_a_control_under_their_contract": "values_have_a_control_under_their_protocol",
}
# The names of a check are unique among the built-in suites; suites of the user's own have a slash in the names of their checks.
RENAME_CHECK = "UPDATE alchemist.check_results SET expectation = :new WHERE expectation = :old"
RENAME_WINDOW = """
UPDATE alchemist.rank_windows SET measurements = measurements || jsonb_build_object(
    'fit', (measurements -> 'fit') - CAST(:old AS text) || jsonb_build_object(:new, measurements -> 'fit' -> :old),
    'cells', (
        SELECT coalesce(jsonb_agg(
            CASE WHEN cell ->> 'arm' = :old THEN cell || jsonb_build_object('arm', CAST(:new AS text)) ELSE cell END
            ORDER BY place
        ), '[]')
        FROM jsonb_array_elements(measurements -> 'cells') WITH ORDINALITY AS cells (cell, place)
    )
)
WHERE measurements -> 'fit' ? :old
"""


def upgrade() -> None:
    for old, new in CHECKS.items():
        op.execute(sa.text(RENAME_CHECK).bindparams(old=old, new=new))
    op.execute(sa.text(RENAME_WINDOW).bindparams(old="region", new="window"))


def downgrade() -> None:
    for old, new in CHECKS.items():
        op.execute(sa.text(RENAME_CHECK).bindparams(old=new, new=old))
    op.execute(sa.text(RENAME_WINDOW).bindparams(old="window", new="region"))
