"""When the DAGs start, and the project file of their tasks. Written from the project file: do not edit."""

# Cron expressions; None: by hand only.
CRON = {
    "nightly_rescore": "0 2 * * *",
    "train_rater": None,
    "maintenance": "30 5 * * *",
}
TIMEZONE = "UTC"
# Whether evaluate_subset starts when build_subset publishes a version.
EVALUATE_PUBLISHED = True
# Training datasets of the project file: the crawl of each starts a night.
DATASETS = []
# The project file that tasks read where ALCHEMIST_PROJECT is not set.
PROJECT = None
# Nodes of a training: the pods of its Indexed Job on Kubernetes.
NODES = 1
