"""The local stack: Postgres, Airflow and metrics on one machine, the synthetic corpus, and the demo."""
