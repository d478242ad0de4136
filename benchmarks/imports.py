"""What importing provkeep costs, in CPU seconds, each time in a new process."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Final

from setting import machine, quartiles

# langchain_core loads a module when a name in it is asked for; these are what most programs ask.
FRAMEWORK: Final = (
    "from langchain_core.language_models import BaseChatModel\n"
    "from langchain_core.messages import AIMessage\n"
    "from langchain_core.prompts import ChatPromptTemplate\n"
    "from langchain_core.output_parsers import StrOutputParser\n"
    "from langchain_core.retrievers import BaseRetriever\n"
    "from langchain_core.runnables import RunnableLambda, RunnableParallel, RunnableSequence"
)
CASES: Final = {  # what is loaded before, and what is measured
    "import provkeep": ("pass", "import provkeep"),
    "provkeep's reader": ("import provkeep", "provkeep.open"),
    "langchain_core": ("pass", FRAMEWORK),
    "provkeep.langchain on top of langchain_core": (FRAMEWORK, "import provkeep.langchain"),
}
_PROGRAM: Final = "import time\n{before}\nbegan = time.process_time()\n{what}\n" + (
    "print(time.process_time() - began)"
)


def seconds(before: str, what: str) -> float:
    """CPU seconds of ``what`` in a new interpreter that has done ``before``."""
    program = _PROGRAM.format(before=before, what=what)
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True
    )
    return float(done.stdout)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--times", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="once each, to see that it runs")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    times = 1 if given.quick else given.times
    found = {
        name: quartiles([seconds(*case) for _ in range(times)]) for name, case in CASES.items()
    }
    if given.json:
        print(json.dumps({"machine": machine(), "cpu_s": found}, indent=2))
        return 0
    print(f"{machine()}\n\n| what | CPU s, median (quartiles) |\n|---|---|")
    for name, (low, middle, high) in found.items():
        print(f"| {name} | {middle:.3f} ({low:.3f}-{high:.3f}) |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
