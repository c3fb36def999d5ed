"""A shard that grows, is gone or has changed has a state of its own; a later revision of it may lie under the same address.

`retirement_id` numbers the shards whose locations are dead for ever (retired, or superseded by a later revision), so that a snapshot
gives the same set again: it counts those up to the number that it stored.
"""

from alembic import op

revision = "0034"
down_revision = "0033"


def upgrade() -> None:
    op.execute("""
    ALTER TABLE alchemist.shards ADD COLUMN state_reason varchar;
    ALTER TABLE alchemist.shards ADD COLUMN state_changed_at timestamptz;
    ALTER TABLE alchemist.shards ADD COLUMN retirement_id integer;
    ALTER TABLE alchemist.shards DROP CONSTRAINT ck_shards_state;
    ALTER TABLE alchemist.shards ADD CONSTRAINT ck_shards_state CHECK (state IN (
        'registered', 'growing', 'verified', 'missing', 'changed', 'rejected', 'retired', 'superseded'
    ));
    ALTER TABLE alchemist.shards DROP CONSTRAINT uq_shards_dataset_id_uri;
    CREATE UNIQUE INDEX uq_shards_dataset_id_uri ON alchemist.shards (dataset_id, uri) WHERE state <> 'superseded';
    CREATE UNIQUE INDEX uq_shards_retirement_id ON alchemist.shards (retirement_id) WHERE retirement_id IS NOT NULL;
    """)


def downgrade() -> None:
    op.execute("""
    DROP INDEX alchemist.uq_shards_retirement_id;
    DROP INDEX alchemist.uq_shards_dataset_id_uri;
    ALTER TABLE alchemist.shards ADD CONSTRAINT uq_shards_dataset_id_uri UNIQUE (dataset_id, uri);
    ALTER TABLE alchemist.shards DROP CONSTRAINT ck_shards_state;
    ALTER TABLE alchemist.shards ADD CONSTRAINT ck_shards_state
        CHECK (state IN ('registered', 'verified', 'retired', 'rejected'));
    ALTER TABLE alchemist.shards DROP COLUMN retirement_id;
    ALTER TABLE alchemist.shards DROP COLUMN state_changed_at;
    ALTER TABLE alchemist.shards DROP COLUMN state_reason;
    """)
