"""What was trained on a subset and what it was worth."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.execute("""
    CREATE TABLE alchemist.models (
        model_id integer GENERATED ALWAYS AS IDENTITY,
        identity_hash varchar NOT NULL,
        arm varchar NOT NULL,
        subset_id integer,
        retention double precision NOT NULL,
        seed integer NOT NULL,
        config jsonb NOT NULL,
        n_samples bigint NOT NULL,
        n_steps integer NOT NULL,
        members_sha256 varchar NOT NULL,
        checkpoint_uri varchar NOT NULL,
        checkpoint_sha256 bytea NOT NULL,
        run_id bigint,
        created_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT pk_models PRIMARY KEY (model_id),
        CONSTRAINT uq_models_identity_hash UNIQUE (identity_hash),
        CONSTRAINT fk_models_subset_id FOREIGN KEY (subset_id) REFERENCES alchemist.subsets (subset_id)
    );
    CREATE INDEX ix_models_subset_id ON alchemist.models (subset_id);
    CREATE TABLE alchemist.evaluation_contracts (
        contract_id integer GENERATED ALWAYS AS IDENTITY,
        contract_hash varchar NOT NULL,
        contract jsonb NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT pk_evaluation_contracts PRIMARY KEY (contract_id),
        CONSTRAINT uq_evaluation_contracts_contract_hash UNIQUE (contract_hash)
    );
    CREATE TABLE alchemist.evaluations (
        evaluation_id bigint GENERATED ALWAYS AS IDENTITY,
        model_id integer NOT NULL,
        contract_id integer NOT NULL,
        metric varchar NOT NULL,
        value double precision NOT NULL,
        n integer NOT NULL,
        run_id bigint,
        created_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT pk_evaluations PRIMARY KEY (evaluation_id),
        CONSTRAINT uq_evaluations_model_id_contract_id_metric UNIQUE (model_id, contract_id, metric),
        CONSTRAINT ck_evaluations_finite CHECK (value > '-Infinity'::float8 AND value < 'Infinity'::float8),
        CONSTRAINT ck_evaluations_n CHECK (n > 0),
        CONSTRAINT fk_evaluations_model_id FOREIGN KEY (model_id) REFERENCES alchemist.models (model_id),
        CONSTRAINT fk_evaluations_contract_id FOREIGN KEY (contract_id) REFERENCES alchemist.evaluation_contracts (contract_id)
    );
    CREATE TABLE alchemist.experiments (
        experiment_id integer GENERATED ALWAYS AS IDENTITY,
        name varchar NOT NULL,
        config jsonb NOT NULL,
        result jsonb,
        created_at timestamptz DEFAULT now() NOT NULL,
        finished_at timestamptz,
        CONSTRAINT pk_experiments PRIMARY KEY (experiment_id),
        CONSTRAINT uq_experiments_name UNIQUE (name)
    );
    """)


def downgrade() -> None:
    op.execute("""
    DROP TABLE alchemist.experiments;
    DROP TABLE alchemist.evaluations;
    DROP TABLE alchemist.evaluation_contracts;
    DROP TABLE alchemist.models;
    """)
