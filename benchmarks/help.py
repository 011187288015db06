"""How long `spherood --help` takes, in seconds and against a Python that does nothing.

    python benchmarks/help.py

Median of 5, after one run that fills the caches; exit 1 where it takes 0.4 s or more. The ratio tells a slow machine
from a slow command.
"""

from __future__ import annotations

import platform
import shutil
import statistics
import subprocess
import sys
import sysconfig
import time

TARGET, REPEATS = 0.4, 5  # seconds


def seconds(command: list[str]) -> list[float]:
    times = []
    for _ in range(1 + REPEATS):
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - begin)
    return times[1:]


def main() -> int:
    script = shutil.which("spherood", path=sysconfig.get_path("scripts"))
    if script is None:
        print("benchmarks/help.py: no spherood beside this Python. Install it: pip install -e .", file=sys.stderr)
        return 2
    ours, nothing = seconds([script, "--help"]), seconds([sys.executable, "-c", "pass"])
    median, floor = statistics.median(ours), statistics.median(nothing)
    print(f"{platform.system()}, Python {platform.python_version()}, median of {REPEATS} (fastest, slowest)")
    for name, times in (("spherood --help", ours), ("python -c pass", nothing)):
        print(f"{name:16} {statistics.median(times):6.3f} s  ({min(times):.3f}, {max(times):.3f})")
    print(f"{'ratio':16} {median / floor:6.1f}")
    print(f"{'target':16} {TARGET:6.3f} s  {'missed' if median >= TARGET else 'reached'}")
    return int(median >= TARGET)


if __name__ == "__main__":
    sys.exit(main())
