"""The DAGs of Alchemist, in a package, so that their module names cannot collide with others in the same DAG folder."""
