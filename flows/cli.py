"""The command line: `augment run | train | grid | status | export | tidy | presets | evaluate | fidelity | …`.

The commands stand in flows/commands. Here they start and end: parsing, exit codes, and errors as one sentence.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

from flows.commands import CHECKOUT
from flows.commands.connection import SILENT, Terminated
from flows.commands.console import ERR, OUT
from flows.commands.parser import parse
from flows.commands.values import check_texts, load_parameters, set_value
from lib.core.errors import AugmentError
from lib.core.storage import explanation, without_room

__all__ = ["CHECKOUT", "ERR", "OUT", "SILENT", "load_parameters", "main", "set_value"]

# Pydantic would read the metadata of all installed packages for plugins, a third of a start; none is used.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. Errors a user can mend are one sentence on stderr."""
    options = parse(arguments)
    warnings.simplefilter("ignore")  # what a user can mend comes as a reason or an error
    OUT.quiet = getattr(options, "quiet", False)
    try:
        check_texts(options)
        code: int = options.function(options)
        return code
    except KeyboardInterrupt as error:
        ERR.print("augment: stopped; the same command goes on where it was")
        return 143 if isinstance(error, Terminated) else 130
    except Exception as error:
        text = sentence(error)
        if text is None:  # a fault of the program
            raise
        ERR.print(f"augment: {text}", style="red", markup=False)
        return 1


def sentence(error: Exception) -> str | None:
    """What a person can read and mend; None for a fault of the program."""
    text = str(error) if isinstance(error, AugmentError) else explanation(error)
    if "prefect" not in sys.modules:
        return text
    from prefect.settings import get_current_settings

    # Prefect's server cannot start or answer without room, and reports it in many ways or in none.
    full = without_room(get_current_settings().home, "PREFECT_HOME")
    return "; ".join(filter(None, (text, full))) or None


if __name__ == "__main__":
    sys.exit(main())
