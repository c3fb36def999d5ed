"""The store in Postgres: engine, tables, ledgers, leases, snapshots, subsets. Only here SQLAlchemy and psycopg2 are imported."""
