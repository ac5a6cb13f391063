"""What limits the kernels of a training step that take most of its time: `ncu.py FOLDER PRESET BATCH FORMAT`.

Nsight Compute looks at the kernels of a step twice: first how long each takes, one counter for all of them; then the five that take
most, a few times each, with the shares of peak that arithmetic, tensor cores and memory reach.
"""

import csv
import io
import re
import subprocess
import sys
from collections import defaultdict

TIME = "gpu__time_duration.sum"
SHARES = {
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "SM",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "DRAM",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "warps",
}
# Launches before those that are looked at, about two steps, and as many as a step has at most.
SKIPPED, LOOKED = 3000, 2000
KERNELS = 5


def tensor_metrics():
    """How busy tensor cores are, by the names that this version has for it."""
    known = subprocess.run(["ncu", "--query-metrics", "--chip", "gh100"], capture_output=True, text=True, timeout=60).stdout
    found = sorted(set(re.findall(r"^(sm__pipe_tensor\w*cycles_active)\b", known, re.MULTILINE)))
    return {f"{name}.avg.pct_of_peak_sustained_active": name.removeprefix("sm__pipe_").removesuffix("_cycles_active") for name in found}


def look(program, options, metrics):
    """Rows of the report: kernel, metric, value."""
    command = ["ncu", "--clock-control", "none", "--csv", "--page", "raw", "--print-kernel-base", "function", "--print-units", "base"]
    command += ["--metrics", ",".join(metrics), "--kill", "yes", *options, *program]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith('"')]
    if not lines:
        sys.exit(f"ncu measured nothing:\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}")
    # Below the names stands a row of units.
    rows = csv.DictReader(io.StringIO("\n".join([lines[0], *lines[2:]])))
    return [(row["Kernel Name"], {metric: number(row.get(metric)) for metric in metrics}) for row in rows]


def number(text):
    try:
        return float((text or "").replace(",", ""))
    except ValueError:
        return None


def mean(values):
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.0f} %" if known else "-"


def main():
    programs, preset, batch, form = sys.argv[1:]
    program = [f"{programs}/gpu", "bench", preset, batch, form, "4"]
    taken = defaultdict(list)
    for kernel, found in look(program, ["--launch-skip", str(SKIPPED), "--launch-count", str(LOOKED)], [TIME]):
        taken[kernel].append(found[TIME] or 0.0)
    whole = sum(map(sum, taken.values()))
    most = sorted(taken, key=lambda kernel: -sum(taken[kernel]))[:KERNELS]
    metrics = {**SHARES, **tensor_metrics()}
    options = ["--kernel-name", f"regex:^({'|'.join(map(re.escape, most))})$", "--launch-skip", "200", "--launch-count", "120"]
    seen = defaultdict(list)
    for kernel, found in look(program, options, [TIME, *metrics]):
        seen[kernel].append(found)
    print(f"{preset} × {batch}, {form}: {sum(map(len, taken.values()))} launches, {whole / 1e6:.1f} ms of kernels")
    print(f"| kernel | launches | share of time | mean µs | {' | '.join(metrics.values())} |\n|---|---:|---:|---:|{'---:|' * len(metrics)}")
    for kernel in most:
        times, shares = taken[kernel], [mean(found[metric] for found in seen[kernel]) for metric in metrics]
        cells = [kernel, str(len(times)), f"{sum(times) / whole:.1%}", f"{sum(times) / len(times) / 1e3:.1f}", *shares]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
