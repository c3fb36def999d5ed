"""Postgres is the truth: engine, tables, ledgers, leases, snapshots, subsets. SQLAlchemy and psycopg2 are imported only here."""
