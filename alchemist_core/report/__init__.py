"""The report page: plain values in, one self-contained HTML file out. No database, no torch, no network."""

from alchemist_core.report.content import (
    ArmRun,
    ContactSheet,
    CostRow,
    DriftRow,
    ExperimentContent,
    Fact,
    Histogram,
    LineageStep,
    MetricRun,
    NightRow,
    QuarantineRow,
    ReportContent,
    SubsetContent,
    Tile,
    VersionChange,
    WithdrawnRow,
)
from alchemist_core.report.page import render_report
from alchemist_core.report.sheets import BANDS, encode_thumbnail, pick_band

__all__ = [
    "BANDS",
    "ArmRun",
    "ContactSheet",
    "CostRow",
    "DriftRow",
    "ExperimentContent",
    "Fact",
    "Histogram",
    "LineageStep",
    "MetricRun",
    "NightRow",
    "QuarantineRow",
    "ReportContent",
    "SubsetContent",
    "Tile",
    "VersionChange",
    "WithdrawnRow",
    "encode_thumbnail",
    "pick_band",
    "render_report",
]
