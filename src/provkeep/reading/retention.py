"""How long things may be kept: ages, and the table ``[retention]`` of a configuration file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from provkeep.errors import PolicyError
from provkeep.model.records import COMPARTMENTS
from provkeep.sealing.home import home_dir

CONFIG: Final = "config.toml"  # in the configuration folder
EVERYTHING: Final = "all"
DAYS: Final = {"d": 1, "w": 7, "m": 30, "y": 365}
_AGE: Final = re.compile(r"([1-9][0-9]{0,4})([dwmy])")
_US_A_DAY: Final = 24 * 3600 * 1_000_000

Rule = tuple[str, tuple[str, ...]]  # age, and compartments; none for all of them


def age_us(age: str) -> int:
    """Microseconds of an age such as ``180d``, ``26w``, ``6m`` (of 30 days) or ``3y`` (of 365).

    Raises:
        PolicyError: it is not one.
    """
    found = _AGE.fullmatch(age)
    if found is None:
        raise PolicyError("age", f"{age!r} is no age", "write 180d, 26w, 6m or 3y")
    return int(found[1]) * DAYS[found[2]] * _US_A_DAY


def rules_of(age: str, classes: Sequence[str]) -> list[Rule]:
    """One rule, checked.

    Raises:
        PolicyError: the age is none.
    """
    age_us(age)
    return [(age, tuple(classes))]


def rules_of_file(path: Path | None = None) -> list[Rule]:
    """The rules of a configuration file, the rule for everything last.

    Args:
        path: the file; by default ``config.toml`` in the configuration folder.

    Raises:
        PolicyError: it is missing, or says something that is no rule.
    """
    where = path if path is not None else home_dir() / CONFIG
    try:
        table = tomllib.loads(where.read_text(encoding="utf-8")).get("retention")
    except OSError as error:
        raise PolicyError(
            str(where), f"cannot be read ({error.strerror})", "write a table [retention] there"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PolicyError(str(where), "is not TOML", "see `provkeep retain --help`") from error
    if not isinstance(table, dict) or not table:
        raise PolicyError(str(where), "has no table [retention]", "see `provkeep retain --help`")
    unknown = sorted(set(table) - {*COMPARTMENTS, EVERYTHING})
    if unknown:
        known = ", ".join((*COMPARTMENTS, EVERYTHING))
        raise PolicyError(str(where), f"names {unknown[0]!r}", f"compartments are {known}")
    for age in table.values():
        age_us(age if isinstance(age, str) else repr(age))
    rules = [(table[name], (name,)) for name in COMPARTMENTS if name in table]
    return [*rules, *([(table[EVERYTHING], ())] if EVERYTHING in table else [])]
