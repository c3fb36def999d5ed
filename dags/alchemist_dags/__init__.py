"""The DAGs of Alchemist, a package of one name: its modules collide with nothing in a DAG folder that it is installed into."""
