"""Locations that were set aside, then scored after their night was decided: they belong to a later revision of it."""

from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.execute("""
    CREATE TABLE alchemist.retried_samples (
        rater_id integer NOT NULL,
        shard_id bigint NOT NULL,
        ordinal integer NOT NULL,
        night_id integer NOT NULL,
        CONSTRAINT pk_retried_samples PRIMARY KEY (rater_id, shard_id, ordinal),
        CONSTRAINT fk_retried_samples_shard_id_ordinal FOREIGN KEY (shard_id, ordinal)
            REFERENCES alchemist.sample_locations (shard_id, ordinal),
        CONSTRAINT fk_retried_samples_rater_id_shard_id FOREIGN KEY (rater_id, shard_id)
            REFERENCES alchemist.shard_scores (rater_id, shard_id),
        CONSTRAINT fk_retried_samples_night_id FOREIGN KEY (night_id) REFERENCES alchemist.nights (night_id)
    );
    CREATE INDEX ix_retried_samples_night_id ON alchemist.retried_samples (night_id);
    """)


def downgrade() -> None:
    op.execute("DROP TABLE alchemist.retried_samples")
