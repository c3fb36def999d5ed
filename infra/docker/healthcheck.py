#!/usr/bin/env python3
"""Health check of Airflow's containers, with the standard library only: it runs every few seconds.

    healthcheck URL [COMPONENT]

Ends with 0 if the address answers and, where a component is named (scheduler, triggerer, dag_processor), that one is healthy.
"""

import json
import sys
import urllib.request


def is_healthy(url: str, component: str | None = None) -> bool:
    """Return whether an address answers, and with a healthy component."""
    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  the caller's own address
        text = answer.read()
    return component is None or json.loads(text)[component]["status"] == "healthy"


if __name__ == "__main__":
    try:
        sys.exit(0 if is_healthy(*sys.argv[1:]) else 1)
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"{sys.argv[1]}: {error!r}")
