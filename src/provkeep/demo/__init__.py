"""``provkeep demo``: programs of both frameworks over the manual, recorded, asked and forged."""

from provkeep.demo.story import DemoResult, run_demo

__all__ = ["DemoResult", "run_demo"]
