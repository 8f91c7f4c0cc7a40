"""What to say of variables on `make`'s command line that the Makefile doesn't know.

`make` itself takes any name and does nothing with it. Run by the system's own Python, before
anything is installed: standard library only, and no syntax newer than Python 3.6.
"""

import difflib
import re
import sys
from pathlib import Path

MAKEFILE = Path(__file__).resolve().parents[1] / "Makefile"


def known_variables(makefile: Path = MAKEFILE) -> "list[str]":
    """The names that `make help` lists."""
    return re.findall(r"^([A-Z_]+) \?=", makefile.read_text(encoding="utf-8"), re.MULTILINE)


def complaint(name: str, known: "list[str]") -> str:
    """One line that says that there is no such variable, and what was meant."""
    (nearest,) = difflib.get_close_matches(name.upper(), known, 1, 0.0) or [""]
    return f"{name} is not a variable; the nearest is {nearest} (`make help` lists them)"


if __name__ == "__main__":
    variables = known_variables()
    for each in sys.argv[1:]:
        print(f"error: {complaint(each, variables)}")
