"""The outcome of a check as a sentence: what was expected, and what was found. It needs neither Great Expectations nor the store."""

from collections.abc import Mapping, Sequence
from typing import Any


def in_words(observed: Mapping[str, Any], *, value: str = "", rows: str = "rows", is_yes_or_no: bool = False) -> str:
    """Return what a check expected and found, without the name of its expectation and of that one's arguments.

    Args:
        observed: Figures and examples of an outcome, and under `expected` the arguments of its expectation.
        value: What the check looks at, in words.
        rows: What a row of its frame is, in the plural.
        is_yes_or_no: Whether 1 and 0 mean yes and no.

    >>> in_words({"expected": {"value_set": [True]}, "examples": [False], "unexpected_count": 2, "element_count": 5},
    ...          value="shard is scored", rows="shards")
    'expected shard is scored: yes; found no in 2 of 5 shards'
    >>> in_words({"expected": {"max_value": 0.2}, "examples": [0.25]}, value="share of quarantined locations")
    'expected share of quarantined locations: at most 0.2; found 0.25'
    """
    if reason := observed.get("exception"):
        return f"could not be tested: {reason}"
    expected = ": ".join(filter(None, [value, _bounds(observed.get("expected", {}), is_yes_or_no=is_yes_or_no)]))
    found = f"found {_found(observed, rows, is_yes_or_no=is_yes_or_no)}"
    return f"expected {expected}; {found}" if expected else found


def _bounds(arguments: Mapping[str, Any], *, is_yes_or_no: bool) -> str:
    """Return the arguments of an expectation in words.

    >>> _bounds({"min_value": 0, "strict_min": True}, is_yes_or_no=False), _bounds({"regex": "a+", "mostly": 0.9}, is_yes_or_no=False)
    ('above 0', 'regex a+, in at least 90% of rows')
    """
    low, high = arguments.get("min_value"), arguments.get("max_value")
    words = [] if low is None else [f"{'above' if arguments.get('strict_min') else 'at least'} {_text(low)}"]
    words += [] if high is None else [f"{'below' if arguments.get('strict_max') else 'at most'} {_text(high)}"]
    said = [" and ".join(words)] if words else []
    if "value_set" in arguments:
        said.append(" or ".join(_text(one, is_yes_or_no=is_yes_or_no) for one in arguments["value_set"] or ()))
    known = {
        "min_value",
        "max_value",
        "strict_min",
        "strict_max",
        "value_set",
        "mostly",
        "column",
        "column_A",
        "column_B",
    }
    said += [f"{name.replace('_', ' ')} {_text(one)}" for name, one in arguments.items() if name not in known]
    if (mostly := arguments.get("mostly")) not in (None, 1):
        said.append(f"in at least {mostly:.0%} of rows" if isinstance(mostly, float) else f"mostly {mostly}")
    return ", ".join(said)


def _found(observed: Mapping[str, Any], rows: str, *, is_yes_or_no: bool) -> str:
    examples = list(dict.fromkeys(_text(one, is_yes_or_no=is_yes_or_no) for one in observed.get("examples") or ()))
    n_bad, n_all = (observed.get(figure) or 0 for figure in ("unexpected_count", "element_count"))
    if not examples:
        single = observed.get("observed_value")
        return f"{n_bad:,} of {n_all:,} {rows}" if single is None and n_all else _text(single)
    if isinstance(observed["examples"][0], Mapping):
        return f"{n_bad:,} of {n_all:,} {rows}, such as {'; '.join(examples)}" if n_all else "; ".join(examples)
    return f"{', '.join(examples)} in {n_bad:,} of {n_all:,} {rows}" if n_bad and n_all > 1 else ", ".join(examples)


def _text(value: Any, *, is_yes_or_no: bool = False) -> str:
    """Return a value as people write it.

    >>> _text(True), _text(0, is_yes_or_no=True), _text(12000), _text([10, 9]), _text({"id": 7000, "width": 18}), _text(None)
    ('yes', 'no', '12,000', '10 and 9', 'id = 7000, width = 18', 'nothing')
    """
    if value is None:
        return "nothing"
    if isinstance(value, bool) or (is_yes_or_no and value in (0, 1)):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        # Of a row: its numbers may be keys, which are copied into commands.
        return ", ".join(f"{name} = {one if type(one) is int else _text(one)}" for name, one in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " and ".join(map(_text, value))
    return str(value)
