"""What is wrong with the fields of an address, in the words of the forms."""

from pydantic import ValidationError

from alchemist_core.errors import AlchemistError


def describe_faults(error: ValidationError | AlchemistError) -> str:
    """Return what is wrong: a line for each field, or the message of a condition with the mark below its fault."""
    if isinstance(error, AlchemistError):
        return str(error).removeprefix("--where: ")
    faults = [
        (".".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, ")) for fault in error.errors()
    ]
    return "\n".join(f"{name.replace('_', ' ')}: {text}" if name else text for name, text in faults)
