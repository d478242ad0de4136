"""llama-index-instrumentation's own tests, with the recorder attached.

    python tests/upstream/instrumentation.py [folder]

Runs the tests of the installed release twice, without and with a recorder that listens to every
dispatcher the tests make, and prints which outcomes differ. Fetches its source distribution when it
is not in the folder. `make test` runs it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from fetch import sdist

PACKAGE = "llama-index-instrumentation"
PLUGIN = """
import os
import provkeep
from provkeep.llamaindex import instrument
from llama_index_instrumentation import dispatcher as module

attached = instrument(os.environ["PROVKEEP_UPSTREAM"], durability="batch")
listener = attached.listener
enter, hear, heard = listener.span_enter, listener.handle, []

def span_enter(*args, **kwargs):
    heard.append("span")
    enter(*args, **kwargs)

def handle(*args, **kwargs):
    heard.append("event")
    hear(*args, **kwargs)

listener.span_enter, listener.handle = span_enter, handle

# The tests make dispatchers that have no root, and count the handlers of those they make; so the
# recorder hears each of these without standing in its lists.
def alone(dispatcher):
    return not any(h is listener for h in dispatcher._walk_span_handlers())

def also(name, method):
    def told(self, *args, _real=getattr(module.Dispatcher, name), **kwargs):
        if alone(self):
            getattr(listener, method)(*args, **kwargs)
        return _real(self, *args, **kwargs)
    setattr(module.Dispatcher, name, told)

for name in ("span_enter", "span_exit", "span_drop"):
    also(name, name)
also("event", "handle")

def pytest_sessionfinish(session):
    attached.detach()  # raises when anything was lost
    with provkeep.open(os.environ["PROVKEEP_UPSTREAM"]) as trail:
        traces, good = len(trail.runs()), bool(trail.verify())
    print(f"\\nheard {heard.count('span')} spans, {heard.count('event')} events: {traces} traces")
    assert good and traces
"""
TIMED = "tests/test_dispatcher.py::test_aevent_concurrent_handlers"  # asserts wall time


def main() -> int:
    """Return 1 when the recorder changes an outcome."""
    folder = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory() as work:
        archive = sdist(PACKAGE, folder or Path(work))
        with tarfile.open(archive) as packed:
            packed.extractall(work, filter="data")
        source = Path(work, archive.name.removesuffix(".tar.gz"))
        Path(work, "provkeep_on.py").write_text(PLUGIN)
        failed = [outcomes(source, *options) for options in ((), ("-p", "provkeep_on"))]
    changed = failed[0] ^ failed[1]
    sys.stdout.write("".join(f"differs: {name}\n" for name in sorted(changed)))
    return 1 if changed else 0


def outcomes(source: Path, *options: str) -> set[str]:
    """The tests that failed; prints what pytest's report ends with."""
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path("src").resolve()), str(source.parent)]),
        "PROVKEEP_HOME": str(source.parent / "home"),
        "PROVKEEP_UPSTREAM": str(source.parent / "audit.db"),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", f"--deselect={TIMED}"]
    done = subprocess.run(
        [*command, *options, "tests"], cwd=source, env=env, capture_output=True, text=True
    )
    said = re.findall(r"^(?:heard .*|.*\d+ passed.*)$", done.stdout, re.M)
    if not re.search(r"\d+ passed", done.stdout) or (options and len(said) < 2):
        sys.exit(done.stdout + done.stderr)
    sys.stdout.write(f"{'with' if options else 'without'} the recorder: {'; '.join(said)}\n")
    return set(re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.M))


if __name__ == "__main__":
    sys.exit(main())
