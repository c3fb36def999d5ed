"""The flame graphs that the documentation shows."""

import re

from tests.benchmarks.flames import FOLDER, WORK


def test_there_is_a_graph_of_each_work_and_none_names_a_path_of_the_machine() -> None:
    graphs = {path.stem.removeprefix("flame-"): path.read_text("utf-8") for path in FOLDER.glob("flame-*.svg")}
    assert graphs.keys() == WORK.keys()
    assert [name for name, graph in graphs.items() if re.search(r"[\s;\"(]/\w+/", graph)] == []
