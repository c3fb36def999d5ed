"""The store in Postgres: tables, ledgers, leases, snapshots, subsets. Only this package imports SQLAlchemy and psycopg2."""
