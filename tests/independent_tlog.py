"""An interpreter with transparency-log tools that nobody here wrote: aics-tlog and aics-witness.

Both are Apache-2.0 packages on PyPI that need Python 3.12; they are installed into an environment
of their own, once, so that they share neither code nor dependencies with provkeep. Where no such
interpreter is found, or nothing can be installed, the tests that need it are skipped and say why.
"""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("aics-tlog==0.2.1", "aics-witness==0.1.0")
OLDEST = (3, 12)
CACHE = Path(__file__).parent.parent / ".pytest_cache" / "independent-tlog"


def run_independently(code: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run a program there; skips the test when there is no such interpreter."""
    return subprocess.run(
        [independent_python(), "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        env=plain(),
    )


def independent_python() -> str:
    """Path of the interpreter; skips the test when there is none."""
    found, reason = _prepared()
    if found is None:
        pytest.skip(reason)
    return found


@functools.cache
def _prepared() -> tuple[str | None, str]:
    python = CACHE / "bin" / "python"
    if _works(python):
        return str(python), ""
    base = next(filter(_is_new, _candidates()), None)
    if base is None:
        return None, "aics-tlog needs Python 3.12 or newer, and none was found"
    shutil.rmtree(CACHE, ignore_errors=True)
    for words in (
        [base, "-m", "venv", str(CACHE)],
        [str(python), "-m", "pip", "install", "--quiet", *PACKAGES],
    ):
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=300, env=plain())
        except (OSError, subprocess.TimeoutExpired) as error:
            return None, f"no environment for aics-tlog could be made ({type(error).__name__})"
        if done.returncode:
            return None, f"aics-tlog could not be installed: {done.stderr.strip()[-200:]}"
    return (str(python), "") if _works(python) else (None, "aics-tlog does not run here")


def _candidates() -> list[str]:
    names = [shutil.which(f"python3.{minor}") for minor in (12, 13, 14)]
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    built = sorted(str(p) for p in root.glob("3.1[2-9]*/bin/python"))
    return [sys.executable, *built, *filter(None, names)]


def _is_new(python: str) -> bool:
    code = f"import sys; sys.exit(sys.version_info < {OLDEST!r})"
    try:
        return not subprocess.run([python, "-c", code], capture_output=True, timeout=60).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False


def _works(python: Path) -> bool:
    if not python.exists():
        return False
    done = subprocess.run(
        [python, "-c", "import aics_tlog, aics_witness"], capture_output=True, env=plain()
    )
    return done.returncode == 0


def plain() -> dict[str, str]:
    """An environment in which this tree is not on the path of another interpreter."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
