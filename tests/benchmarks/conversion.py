"""Rehearses EEGCVPR40 at full size: writes the phantom in the published form, converts it, opens it again. Linux only.

python tests/benchmarks/conversion.py FOLDER      9 GB are free there; FOLDER/eegcvpr40 is kept and used again
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OPEN = """
import sys, time, resource
from pathlib import Path
import torch
from brainvis.data import load_dataset
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
data = load_dataset("eegcvpr40", folder=Path(sys.argv[1]))
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(f"{seconds:.2f} s, peak {peak / 1e6:.2f} GB, of which {before / 1e6:.2f} GB are torch and Python", flush=True)
if sys.argv[2] == "share":
    data.trials.sum(dim=(1, 2))
    print("all trials read", flush=True)
    sys.stdin.readline()  # until the other process has read them, too
    sizes = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    print("; ".join(f"{name} {int(sizes[name].split()[0]) / 1e6:.2f} GB" for name in ("Rss", "Pss", "Pss_Anon")))
"""


def opened(folder: Path, share: bool = False) -> subprocess.Popen:
    """A process that opens the data set and says how long that took."""
    arguments = [sys.executable, "-c", OPEN, str(folder), "share" if share else "alone"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(arguments, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def main() -> None:
    """Write if need be, convert, open again, share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve() / "eegcvpr40"
    if not folder.is_dir():
        start = time.perf_counter()
        command = [sys.executable, "-m", "brainvis.phantom", str(folder), "--published-form", "--design", "block"]
        subprocess.run([*command, "--drift", "1"], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        print(f"written      {time.perf_counter() - start:.0f} s")
    for array in folder.glob("*.safetensors"):
        array.unlink()
    print("source      ", f"{(folder / 'eeg_5_95_std.pth').stat().st_size / 1e9:.2f} GB")
    print("conversion  ", opened(folder).communicate()[0].strip())
    print("array file  ", f"{sum(file.stat().st_size for file in folder.glob('*.safetensors')) / 1e9:.2f} GB")
    print("opened again", opened(folder).communicate()[0].strip())
    both = [opened(folder, share=True) for _ in range(2)]
    for process in both:
        while "all trials read" not in process.stdout.readline():
            pass
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
        print("one of two  ", process.stdout.readline().strip())
    for process in both:
        process.wait()


if __name__ == "__main__":
    main()
