"""Lets Medley and PyTorch work in turns on the same shapes, and prints one table: see `run.sh`.

Several batches give a row each, and at the end each side's best batch against the other's. A side that fails at a batch, for want of
memory for instance, is named and left out there.
"""

import argparse
import contextlib
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
STEP = ["reference step", "packed step"]
LIBRARY = ["transformers greedy", "transformers nucleus", "transformers pairs", "transformers match"]
PARTS = {"step": [STEP], "reference": [STEP[:1]], "best": [["best step"]], "library": [LIBRARY], None: [STEP, LIBRARY]}
HEAD = "| batch | against | Medley, CPU ms | other, CPU ms | ratio of CPU time | wall ms, Medley / other | ratio of wall time | samples/s, Medley / other | peak MiB, Medley / other |"


class Ended(Exception):
    """A side is not there any more."""


class Late(Ended):
    """There was no time left for a side."""


class Side:
    """A program that does one thing for each line it reads."""

    def __init__(self, command, deadline, environment=None):
        program = command[1] if command[0] == sys.executable else command[0]
        self.name, self.deadline = program.name, deadline
        self.process = subprocess.Popen(
            [*map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.greeting = self.line()

    def line(self):
        # There is one line for each command, so that none waits in a buffer.
        if not select.select([self.process.stdout], [], [], max(self.deadline - time.monotonic(), 0))[0]:
            self.process.kill()
            raise Late(f"{self.name} had no time left")
        line = self.process.stdout.readline()
        if not line:
            raise Ended(f"{self.name} ended with {self.process.wait()}")
        return line

    def do(self, command):
        try:
            self.process.stdin.write(command + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        return json.loads(self.line())

    def peak_mib(self):
        """The most memory it has held."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024

    def end(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.wait()


class Sides:
    """Both programs at one size."""

    def __init__(self, arguments, batch, deadline):
        self.deadline, self.warm = deadline, arguments.warm
        self.environment = {**os.environ, **({"MEDLEY_LENGTHS": arguments.lengths} if arguments.lengths else {})}
        self.medley = [arguments.medley, arguments.preset, batch, arguments.threads]
        self.medley += [] if arguments.dropout is None else [arguments.dropout]
        self.file = tempfile.NamedTemporaryFile("w", suffix=".json")
        side = self.side(self.medley)
        self.description = json.loads(side.greeting)
        side.end()
        self.file.write(side.greeting)
        self.file.flush()
        self.torch = [sys.executable, HERE / "torch_side.py", self.file.name, arguments.torch_threads or arguments.threads, *arguments.torch.split()]

    def side(self, command):
        return Side(command, self.deadline, self.environment)

    def turns(self, commands, rounds):
        """Runs what Medley does and what it is compared with in turns: name → measurements, those that warm up left out. A side
        that fails has none, and the other goes on alone; of one that is late there are those before."""
        roles = sorted({command.split()[0] for command in commands})
        sides, found = {}, {name: [] for command in commands for name in (f"medley {command}", command)}
        for side, command in [("medley", self.medley), ("other", [*self.torch, *roles])]:
            with self.failures(sides, side, found):
                sides[side] = self.side(command)
        for i in range(self.warm + rounds):
            for command in commands:
                for side, name, words in [("medley", f"medley {command}", command.split()[1]), ("other", command, command)]:
                    with self.failures(sides, side, found):
                        if side in sides:
                            found[name] += [sides[side].do(words)] * (i >= self.warm)
        for side in sides.values():
            side.end()
        return found

    @contextlib.contextmanager
    def failures(self, sides, side, found):
        """Tells of a side that fails, and leaves it out."""
        try:
            yield
        except Ended as error:
            print(error, file=sys.stderr, flush=True)
            sides.pop(side, None)
            for name in found:
                if name.startswith("medley ") == (side == "medley") and not isinstance(error, Late):
                    found[name] = []

    def memory(self, command):
        """Peak memory in MiB of a process that does this alone, on either side."""
        role, work = command.split()
        peaks = []
        for side, words in [(self.side(self.medley), work), (self.side([*self.torch, role]), command)]:
            for _ in range(2):
                side.do(words)
            peaks.append(side.peak_mib())
            side.end()
        return peaks


def spread(values, clock):
    """Median (least–most) in milliseconds."""
    if not values:
        return "failed"
    times = [value[clock] * 1e3 for value in values]
    return f"{statistics.median(times):.1f} ({min(times):.1f}–{max(times):.1f})"


def ratio(ours, theirs, clock):
    """Median, least and most of the ratios of neighbouring turns."""
    ratios = [b[clock] / a[clock] for a, b in zip(ours, theirs)]
    return ratios and (statistics.median(ratios), min(ratios), max(ratios))


def row(batch, command, found, samples, peaks):
    """Prints a line of the table; samples/s of both sides, nothing for one that failed."""
    ours, theirs = found[f"medley {command}"], found[command]
    ratios = ["{:.2f} ({:.2f}–{:.2f})".format(*found) if (found := ratio(ours, theirs, clock)) else "-" for clock in ("cpu", "wall")]
    rates = [side and samples / statistics.median(m["wall"] for m in side) for side in (ours, theirs)]
    cells = [
        str(batch), command, spread(ours, "cpu"), spread(theirs, "cpu"), ratios[0],
        f"{spread(ours, 'wall')} / {spread(theirs, 'wall')}", f"**{ratios[1]}**",
        " / ".join(f"{rate:.2f}" if rate else "-" for rate in rates),
        " / ".join(f"{peak:.0f}" for peak in peaks) if peaks else "-",
    ]  # fmt: skip
    print("| " + " | ".join(cells) + " |", flush=True)
    return rates


def best_against_best(rates):
    """Prints each side's best batch: command → batch → samples/s of both."""
    for command, by_batch in rates.items():
        best = [max(((pair[side], batch) for batch, pair in by_batch.items() if pair[side]), default=None) for side in (0, 1)]
        if all(best):
            (ours, at), (theirs, their) = best
            print(f"best against best, {command}: {ours:.1f} samples/s at {at} / {theirs:.1f} at {their}: {ours / theirs:.2f}")


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("medley", type=Path, help="the built bench `versus`")
    arguments.add_argument("preset")
    arguments.add_argument("batches", help="one, or several with commas between")
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--torch-threads", type=int, help="PyTorch's, if it has others")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--warm", type=int, default=1, help="rounds before those that count")
    arguments.add_argument("--dropout", type=float, help="rate in the text towers, instead of the preset's")
    arguments.add_argument("--lengths", help="of the texts in turn, such as 30 or 10,14,8,16, which are the default")
    arguments.add_argument("--only", choices=[part for part in PARTS if part], help="a part of the comparison")
    arguments.add_argument("--torch", default="", help="options for PyTorch's side, such as '--device cuda --bf16'")
    arguments.add_argument("--memory", action="store_true", help="also the peak memory of processes that do one thing each")
    arguments.add_argument("--limit", type=float, default=float("inf"), help="seconds for all of it")
    arguments = arguments.parse_args()
    deadline, rates, batches = time.monotonic() + min(arguments.limit, 1e9), {}, arguments.batches.split(",")
    for batch in batches:
        began = time.monotonic()
        if began >= deadline:
            print(f"no time left for batch {batch}", file=sys.stderr)
            break
        sides = Sides(arguments, batch, deadline)
        description = sides.description
        if batch == batches[0]:
            texts = description["texts"]
            mean = sum(map(len, texts)) / len(texts)
            threads = f"{arguments.threads} threads" + (f" ({arguments.torch_threads} of PyTorch)" if arguments.torch_threads else "")
            print(f"{arguments.preset}, texts of {mean:.1f} tokens (padded to {description['max_tokens']} in `reference` and `best`), ", end="")
            print(f"dropout {description['dropout']}, {threads}, {arguments.rounds} rounds in turns; medians (least–most)\n")
            print(HEAD, "|---|---|---:|---:|---:|---:|---:|---:|---:|", sep="\n", flush=True)
        for commands in PARTS[arguments.only]:
            found = sides.turns(commands, arguments.rounds)
            for command in commands:
                peaks = sides.memory(command) if arguments.memory else None
                each = description["texts_an_image"] if command.endswith(("match", "pairs")) else 1
                rates.setdefault(command, {})[batch] = row(batch, command, found, int(batch) * each, peaks)
        print(f"batch {batch}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    if len(batches) > 1:
        best_against_best(rates)
    compared = [any(all(pair) for pair in by_batch.values()) for by_batch in rates.values()]
    sys.exit(0 if compared and all(compared) else 1)


if __name__ == "__main__":
    main()
