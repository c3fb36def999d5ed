"""Paths of the package data: SQL, DAG files, dashboards, alert rules, the runbook.

A wheel carries sql/, dags/ and the needed parts of infra/ inside the package (setup.py copies them); in a checkout, and so after
`pip install --editable`, they are beside the package. Only `resource` depends on the difference.
"""

from importlib.resources import files
from pathlib import Path

PACKED = "_data"
"""Folder of the package data in a wheel."""


def resource(*parts: str) -> Path:
    """Return the path of a file or folder below sql/, dags/ or infra/.

    >>> resource("sql", "roles.sql").is_file()
    True
    """
    package = Path(str(files("alchemist_core")))
    packed = package / PACKED
    return (packed if packed.is_dir() else package.parent).joinpath(*parts)
