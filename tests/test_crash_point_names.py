"""The moments at which the fault tests kill a process exist in the present code: they run too rarely to notice a rename."""

import importlib

import pytest

from tests.faults.crash_points import POINTS, CrashPoint


@pytest.mark.parametrize(
    "point", sorted({point for points in POINTS.values() for point in points}), ids=lambda one: one.title
)
def test_a_crash_point_names_a_function(point: CrashPoint) -> None:
    found: object = importlib.import_module(point.module)
    for name in point.attribute.split("."):
        found = getattr(found, name)
    assert callable(found)
