"""An argument parser for people who mistype: it says what was probably meant and where the list stands.

It knows nothing of verbs or config models.
"""

import argparse
import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, NoReturn

# argparse tells its mistakes as texts only; later Pythons leave the quotes around the choices out.
_NOT_A_CHOICE = re.compile(r"argument (?P<name>\S+): invalid choice: '(?P<given>.*)' \(choose from (?P<choices>.*)\)")
_MISSING = "the following arguments are required"


class Parser(argparse.ArgumentParser):
    """A parser whose refusals name the nearest word and the next step."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and refuse what is left over here, where the flags are known that may have been meant."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(" ".join(self._refusal(word) for word in unknown if word.startswith("-")) or _too_many(unknown))
        return options, unknown

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, what was probably meant and where to look; exit with 2."""
        if message.startswith(_MISSING):
            self.print_help(sys.stderr) if self._subparsers else self.print_usage(sys.stderr)
        elif found := _NOT_A_CHOICE.match(message):
            choices = re.findall(r"[\w.-]+", found["choices"])
            message = f"{found['name']} is none of {', '.join(choices)}: {found['given']!r}"
            if self._subparsers:
                message = f"{self.prog} knows no {found['given']!r}"
            message += _meant(found["given"], choices)
        end = "" if message.endswith(("?", ".")) else "."
        self.exit(2, f"error: {message}{end} See: {self.prog} --help\n")

    def _refusal(self, word: str) -> str:
        flag = word.partition("=")[0]
        # What a group of verbs does not know may be known to its verbs.
        if self._subparsers:
            return f"{self.prog} knows no {flag}; flags stand behind the verb."
        return f"{self.prog} knows no {flag}{_meant(flag, self._option_string_actions)}"


def _meant(given: str, known: Iterable[str]) -> str:
    near = get_close_matches(given, list(known), n=1)
    return f". Did you mean {near[0]}?" if near else "."


def _too_many(words: list[str]) -> str:
    return f"{', '.join(map(repr, words))} stands where nothing is expected; a value of several words needs quotes"
