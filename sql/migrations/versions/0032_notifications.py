"""What people are told: one row an event, written in the transaction of the act, sent by the command that wrote it or by a later one."""

from alembic import op

revision = "0032"
down_revision = "0025"


def upgrade() -> None:
    op.execute("""
    CREATE TABLE alchemist.notifications (
        notification_id bigint GENERATED ALWAYS AS IDENTITY,
        key varchar NOT NULL,
        kind varchar NOT NULL,
        event jsonb NOT NULL,
        state varchar DEFAULT 'waiting' NOT NULL,
        n_attempts integer DEFAULT 0 NOT NULL,
        delivered_to varchar[] DEFAULT '{}' NOT NULL,
        error varchar,
        created_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT pk_notifications PRIMARY KEY (notification_id),
        CONSTRAINT uq_notifications_key UNIQUE (key),
        CONSTRAINT ck_notifications_state CHECK (state IN ('waiting', 'delivered', 'failed', 'no_receiver'))
    );
    CREATE INDEX ix_notifications_waiting ON alchemist.notifications (notification_id) WHERE state = 'waiting';
    """)


def downgrade() -> None:
    op.execute("DROP TABLE alchemist.notifications")
