"""How a process hands options to a child: in the environment, since every user of a machine can read arguments."""

import os
import sys
from typing import TypeVar

import msgspec

OPTIONS_VARIABLE = "DRAGOMAN_PROCESS_OPTIONS"

Options = TypeVar("Options", bound=msgspec.Struct)


def options_environment(options: msgspec.Struct) -> dict[str, str]:
    """Return the variable that gives a child these options."""
    return {OPTIONS_VARIABLE: msgspec.json.encode(options).decode()}


def read_options(kind: type[Options]) -> Options:
    """Return the options that the parent gave, from the environment or else from the first argument.

    The variable is removed, so that no child of this process gets it.
    """
    text = os.environ.pop(OPTIONS_VARIABLE, None)
    return msgspec.json.decode(sys.argv[1] if text is None else text, type=kind)
