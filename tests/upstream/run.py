"""langchain-core's own tests of callbacks, tracers, runnables and models, with the recorder on.

    python tests/upstream/run.py [folder]

Runs the tests of the installed langchain-core twice in an environment of their own, without and
with a recorder installed for the whole process, and prints which outcomes differ. Fetches its
source distribution when it is not in the folder. Takes minutes: `make upstream`, not `make test`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

from fetch import sdist

NEEDS = (
    "blockbuster<1.6 freezegun grandalf pytest-benchmark pytest-codspeed pytest-mock"
    " pytest-socket<0.9 responses syrupy>=5"
)
TESTS = (
    "callbacks tracers runnables language_models test_tools.py output_parsers prompts"
    " test_retrievers.py chat_history"
)
PLUGIN = """
import os, provkeep.langchain
provkeep.langchain.install(os.environ["PROVKEEP_UPSTREAM"], durability="batch")
def pytest_sessionfinish(session):
    provkeep.langchain.uninstall()  # raises when anything was lost
"""
TIMED = "tests/unit_tests/language_models/chat_models/test_rate_limiting.py"  # asserts wall time
# It counts the handlers of a manager, and one that is installed counts too.
EXPECTED = {"tests/unit_tests/runnables/test_config.py::test_merge_config_callbacks"}


def main() -> int:
    """Return 1 when the recorder changes an outcome."""
    kept = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory() as work:
        return _compared(sdist("langchain-core", kept or Path(work)), Path(work))


def _compared(archive: Path, folder: Path) -> int:
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    source = folder / archive.name.removesuffix(".tar.gz")
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    ours = [p for p in sys.path if p.endswith("site-packages")]
    (site / "ours.pth").write_text("\n".join([*ours, str(Path("src").resolve())]))
    for packages in (NEEDS.split(), ["--no-deps", "langchain-tests<2"]):
        subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
    (folder / "provkeep_on.py").write_text(PLUGIN)
    failed = [outcomes(python, source, *options) for options in ((), ("-p", "provkeep_on"))]
    changed = (failed[0] ^ failed[1]) - EXPECTED
    sys.stdout.write("".join(f"differs: {name}\n" for name in sorted(changed)))
    return 1 if changed else 0


def outcomes(python: Path, source: Path, *options: str) -> set[str]:
    """The tests that failed; prints the last line of pytest's report."""
    env = {
        **os.environ,
        "LANGSMITH_TRACING": "false",
        "PYTHONPATH": os.pathsep.join([str(source), str(source.parent)]),
        "PROVKEEP_HOME": str(source.parent / "home"),
        "PROVKEEP_UPSTREAM": str(source.parent / "audit.db"),
    }
    paths = [f"tests/unit_tests/{name}" for name in TESTS.split()]
    command = [str(python), "-m", "pytest", "-q", "-o", "addopts=", f"--deselect={TIMED}"]
    done = subprocess.run(
        [*command, *options, *paths], cwd=source, env=env, capture_output=True, text=True
    )
    (counts,) = re.findall(r"^.*\d+ passed.*$", done.stdout, re.M)[-1:] or [done.stderr]
    sys.stdout.write(f"{'with' if options else 'without'} the recorder: {counts}\n")
    return set(re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.M))


if __name__ == "__main__":
    sys.exit(main())
