"""Lets Medley and PyTorch work in turns on the same shapes, and prints one table: see `run.sh`."""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
STEP = ["reference step", "packed step"]
LIBRARY = ["transformers greedy", "transformers nucleus", "transformers pairs", "transformers match"]


class Side:
    """A program that does one thing for each line it reads."""

    def __init__(self, *command):
        self.process = subprocess.Popen([*map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.greeting = self.line()

    def line(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.process.args[0]} ended with {self.process.wait()}")
        return line

    def do(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return json.loads(self.line())

    def peak_mib(self):
        """The most memory it has held."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024

    def end(self):
        self.process.stdin.close()
        self.process.wait()


class Sides:
    """Both programs at one size."""

    def __init__(self, arguments):
        self.medley = [arguments.medley, arguments.preset, arguments.batch, arguments.threads]
        self.medley += [] if arguments.dropout is None else [arguments.dropout]
        self.file = tempfile.NamedTemporaryFile("w", suffix=".json")
        side = Side(*self.medley)
        self.description = json.loads(side.greeting)
        side.end()
        self.file.write(side.greeting)
        self.file.flush()
        self.torch = [sys.executable, HERE / "torch_side.py", self.file.name, arguments.threads, *arguments.torch.split()]

    def turns(self, commands, rounds):
        """Runs what Medley does and what it is compared with in turns: name → measurements, the first round left out."""
        medley = Side(*self.medley)
        other = Side(*self.torch, *sorted({command.split()[0] for command in commands}))
        found = {}
        for i in range(1 + rounds):
            for command in commands:
                for name, side, words in [(f"medley {command}", medley, command.split()[1]), (command, other, command)]:
                    measured = side.do(words)
                    found.setdefault(name, []).extend([measured] * (i > 0))
        medley.end()
        other.end()
        return found

    def memory(self, command):
        """Peak memory in MiB of a process that does this alone, on either side."""
        role, work = command.split()
        peaks = []
        for side, words in [(Side(*self.medley), work), (Side(*self.torch, role), command)]:
            for _ in range(2):
                side.do(words)
            peaks.append(side.peak_mib())
            side.end()
        return peaks


def spread(values):
    return f"{min(values) * 1e3:.1f}–{max(values) * 1e3:.1f}"


def row(command, found, samples, peaks):
    ours, theirs = found[f"medley {command}"], found[command]
    median = {}
    for clock in ("wall", "cpu"):
        times = [[m[clock] for m in side] for side in (ours, theirs)]
        ratios = [b / a for a, b in zip(*times)]
        median[clock] = [*map(statistics.median, times), statistics.median(ratios), min(ratios), max(ratios)]
    cpu, wall = median["cpu"], median["wall"]
    cells = [
        command,
        f"{cpu[0] * 1e3:.1f} ({spread([m['cpu'] for m in ours])})",
        f"{cpu[1] * 1e3:.1f} ({spread([m['cpu'] for m in theirs])})",
        f"**{cpu[2]:.2f}** ({cpu[3]:.2f}–{cpu[4]:.2f})",
        f"{wall[2]:.2f} ({wall[3]:.2f}–{wall[4]:.2f})",
        f"{samples / wall[0]:.2f} / {samples / wall[1]:.2f}",
        " / ".join(f"{peak:.0f}" for peak in peaks) if peaks else "-",
    ]
    print("| " + " | ".join(cells) + " |", flush=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("medley", type=Path, help="the built bench `versus`")
    arguments.add_argument("preset")
    arguments.add_argument("batch", type=int)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--dropout", type=float, help="rate in the text towers, instead of the preset's")
    arguments.add_argument("--only", choices=["step", "library"], help="half of the comparison")
    arguments.add_argument("--torch", default="", help="options for PyTorch's side, such as '--device cuda --bf16'")
    arguments.add_argument("--memory", action="store_true", help="also the peak memory of processes that do one thing each")
    arguments = arguments.parse_args()
    sides = Sides(arguments)
    texts = sides.description["texts"]
    mean = sum(map(len, texts)) / len(texts)
    print(f"{arguments.preset}, batch {arguments.batch}, texts of {mean:.1f} tokens (padded to {sides.description['max_tokens']} in `reference`), ", end="")
    print(f"dropout {sides.description['dropout']}, {arguments.threads} threads, {arguments.rounds} rounds in turns; medians (least–most)\n")
    print("| against | Medley, CPU ms | other, CPU ms | ratio of CPU time | ratio of wall time | samples/s, Medley / other | peak MiB, Medley / other |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    each = sides.description["texts_an_image"]
    for commands in [STEP] * (arguments.only != "library") + [LIBRARY] * (arguments.only != "step"):
        found = sides.turns(commands, arguments.rounds)
        for command in commands:
            peaks = sides.memory(command) if arguments.memory else None
            row(command, found, arguments.batch * (each if command.endswith(("match", "pairs")) else 1), peaks)


if __name__ == "__main__":
    main()
