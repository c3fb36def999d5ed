"""Build the dashboards: `python infra/grafana/build.py` writes one JSON file per question; a test checks that they are current.

Edit questions.py, never the JSON. This file holds Grafana's format, questions.py the content.
"""

import json
from pathlib import Path
from typing import Any

from questions import DASHBOARDS, Dashboard, Panel

FOLDER = Path(__file__).parent / "dashboards"
PROMETHEUS = {"type": "prometheus", "uid": "alchemist-prometheus"}
POSTGRES = {"type": "grafana-postgresql-datasource", "uid": "alchemist-store"}
HEIGHT, WIDTH, WIDE = 8, 12, 24

Json = dict[str, Any]


def build(dashboard: Dashboard) -> Json:
    """Return one dashboard as Grafana reads it."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.question,
        "tags": ["alchemist"],
        "schemaVersion": 41,
        "editable": False,
        "refresh": "1m",
        "time": {"from": "now-7d", "to": "now"},
        "timezone": "utc",
        "templating": {"list": [variable("dataset", "alchemist_shards"), variable("rater", "alchemist_score_psi")]},
        "panels": [
            draw(panel, number, place)
            for number, (panel, place) in enumerate(zip(dashboard.panels, lay_out(dashboard.panels), strict=True), 1)
        ],
    }


def lay_out(panels: tuple[Panel, ...]) -> list[Json]:
    """Place two panels in a row, wide panels in a row of their own.

    >>> [(place["x"], place["y"]) for place in lay_out((Panel("a", "s", "."), Panel("b", "s", "."), Panel("c", "s", ".", is_wide=True)))]
    [(0, 0), (12, 0), (0, 8)]
    """
    places, x, y = [], 0, 0
    for panel in panels:
        width = WIDE if panel.is_wide else WIDTH
        if x + width > WIDE:
            x, y = 0, y + HEIGHT
        places.append({"x": x, "y": y, "w": width, "h": HEIGHT})
        x += width
    return places


def draw(panel: Panel, number: int, place: Json) -> Json:
    """Return one panel."""
    source = PROMETHEUS if panel.promql else POSTGRES
    return {
        "id": number,
        "title": panel.title,
        "description": panel.text,
        "type": panel.kind,
        "gridPos": place,
        "datasource": source,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "options": {},
        "targets": [{"refId": "A", "datasource": source, **ask(panel)}],
    }


def ask(panel: Panel) -> Json:
    """Return the query of a panel in the format of its data source."""
    if panel.promql:
        return {"expr": panel.promql, "legendFormat": panel.legend or "__auto"}
    return {"rawSql": panel.sql, "rawQuery": True, "format": "table"}


def variable(label: str, metric: str) -> Json:
    """Return a dashboard variable with the values of a label; by default all are selected."""
    query = f"label_values({metric}, {label})"
    return {
        "name": label,
        "label": label.capitalize(),
        "type": "query",
        "datasource": PROMETHEUS,
        "query": {"query": query, "refId": label},
        "definition": query,
        "includeAll": True,
        # Matches values without a time series too; queries of the store put it between ^( and )$.
        "allValue": ".*",
        "multi": True,
        "refresh": 2,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def render(dashboard: Dashboard) -> str:
    """Return the text of a dashboard's file."""
    return json.dumps(build(dashboard), indent=2) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for one in DASHBOARDS:
        (FOLDER / f"{one.uid}.json").write_text(render(one), encoding="utf-8")
