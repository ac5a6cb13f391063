"""Trainings by `medley-worker train` on a GPU, watched: `trainings.py FOLDER DATA PART [--devices …] [--steps N]`.

FOLDER holds `medley-worker`, DATA generated shards (`human`, `web`, `test`). Parts:

- `train`: the same steps of the preset `tiny` on the processor, on a GPU in fp32 and in bf16, and in bf16 with two other seeds. Mean
  losses of the last tenth must differ less between devices than between seeds.
- `vit`: steps of ViT-B with 90 pairs a lane and of ViT-L with 75: losses, time of a step, memory.
- `lanes`: a step of ViT-B as 32 lanes of 8 pairs on one rank against one lane of 256: what lanes cost.

Vocabularies of the ViTs have BERT's size. A training that has shown what it should is ended.
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path

LOSSES = ("itc", "itm", "lm")
# As BERT's: special tokens at their places, and as many words.
WORDS = 30522
SPECIALS = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
# What lanes may differ by where seeds hardly do.
ROUNDING = 0.01


class Training:
    """A training that runs."""

    def __init__(self, programs, device, threads, spec):
        self.folder = tempfile.TemporaryDirectory(prefix="medley-training-")
        self.out, self.device = Path(self.folder.name), device
        (self.out / "spec.json").write_text(json.dumps(spec))
        self.log = open(self.out / "log", "w")
        command = [programs / "medley-worker", "train", "--out", self.out / "out", "--threads", threads, self.out / "spec.json"]
        environment = {**os.environ, "MEDLEY_DEVICE": device}
        self.began, self.times = time.time(), []
        self.process = subprocess.Popen(
            [*map(str, command)], stdout=self.log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )

    def lines(self):
        """Whole lines of metrics, one for each step committed so far."""
        try:
            return (self.out / "out/metrics.jsonl").read_text().split("\n")[:-1]
        except FileNotFoundError:
            return []

    def written(self):
        """When the last step so far was written."""
        path = self.out / "out/metrics.jsonl"
        return path.stat().st_mtime if path.exists() else time.time()

    def until(self, steps):
        """Waits for so many steps and notes when each was committed; their metrics. The training is ended then."""
        ended = False
        while len(self.times) < steps and not ended:
            ended = self.process.poll() is not None
            found = len(self.lines())
            self.times += [time.monotonic()] * (found - len(self.times))
            time.sleep(0.002)
        rows = [json.loads(line) for line in self.lines()[:steps]]
        del self.times[steps:]
        # It may have been through before anybody looked.
        self.seconds = self.written() - self.began
        self.end()
        if len(rows) < steps:
            sys.exit(f"{self.device}: ended after {len(rows)} of {steps} steps:\n{self.last_words}")
        return rows

    def end(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.log.close()
        self.last_words = (self.out / "log").read_text()[-2000:]
        self.folder.cleanup()

    def step_seconds(self, skipped):
        """Times of single steps, without the first ones."""
        return [b - a for a, b in zip(self.times[skipped:], self.times[skipped + 1 :])]


class Memory:
    """Most memory in use on the GPU while this is open, in MiB, and of the resident set of a training's largest process."""

    def __init__(self, training):
        self.group, self.device, self.host, self.open = training.process.pid, 0, 0, True
        self.watcher = threading.Thread(target=self.watch, daemon=True)

    def __enter__(self):
        self.watcher.start()
        return self

    def __exit__(self, *_):
        self.open = False
        self.watcher.join()

    def watch(self):
        asked = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while self.open:
            try:
                self.device = max(self.device, int(subprocess.run(asked, capture_output=True, text=True).stdout.split()[0]))
            except (FileNotFoundError, IndexError, ValueError):
                pass
            self.host = max([self.host, *map(resident_mib, members(self.group))])
            time.sleep(0.2)


def members(group):
    """Processes of a group."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(folder.name)) == group:
                yield folder
        except ProcessLookupError:
            pass


def resident_mib(folder):
    try:
        found = re.search(r"VmHWM:\s+(\d+)", (folder / "status").read_text())
    except OSError:
        return 0
    return int(found[1]) // 1024 if found else 0


def spec(data, preset, steps, **more):
    document = {"name": "measured", "kind": "pretrain", "preset": preset, "data": {"root": str(data)}, **more}
    document["pretrain"] = {"length": {"by": "steps", "count": steps}, "warmup_steps": min(20, steps // 3)}
    document["checkpoint"] = {"every_steps": steps}
    return document


def vocabulary(data, folder):
    """A vocabulary of BERT's size with the words of these shards; its path."""
    words = set()
    for shard in sorted(data.glob("*/*.tar")):
        with tarfile.open(shard) as archive:
            for member in archive:
                if member.name.endswith(".txt"):
                    words.update(re.findall(r"\w+|[^\w\s]", archive.extractfile(member).read().decode().lower()))
    wanted = iter([*sorted(words), *(f"unused{i}" for i in range(WORDS))])
    path = Path(folder) / "vocab.txt"
    path.write_text("".join(f"{SPECIALS.get(i) or next(wanted)}\n" for i in range(WORDS)))
    return path


def mean(rows):
    """Mean losses of the last tenth."""
    last = rows[-max(len(rows) // 10, 1) :]
    return [statistics.fmean(row[name] for row in last) for name in LOSSES]


def train(programs, data, devices, steps):
    """The preset `tiny` on three devices, and with three seeds on the last."""
    processor, single, half = devices
    of_seed = lambda seed: spec(data, "tiny", steps, seed=seed)  # noqa: E731
    slow = Training(programs, processor, os.cpu_count(), of_seed(1))
    found, seconds = {}, {}
    for device, seed in [(single, 1), (half, 1), (half, 2), (half, 3)]:
        training = Training(programs, device, 4, of_seed(seed))
        found[(device, seed, len(found))] = mean(training.until(steps))
        seconds[(device, seed, len(seconds))] = training.seconds
    found = {(processor, 1, -1): mean(slow.until(steps)), **found}
    seconds[(processor, 1, -1)] = slow.seconds
    print(f"tiny, {steps} steps, mean losses of the last tenth; the first ran beside the others\n")
    print("| device | seed | itc | itm | lm | s |\n|---|---:|---:|---:|---:|---:|")
    for key, losses in found.items():
        print(f"| {key[0]} | {key[1]} | {' | '.join(f'{loss:.4f}' for loss in losses)} | {seconds[key]:.1f} |")
    cpu, fp32, *seeds = found.values()
    well = True
    for i, name in enumerate(LOSSES):
        of_seeds = [losses[i] for losses in seeds]
        spread = max(of_seeds) - min(of_seeds)
        bar = max(spread, ROUNDING * cpu[i])
        apart = [abs(cpu[i] - fp32[i]), abs(cpu[i] - of_seeds[0])]
        fine = max(apart) <= bar
        well &= fine
        print(f"{'OK' if fine else 'WRONG'} {name}: fp32 {apart[0]:.4f} and bf16 {apart[1]:.4f} from the processor; seeds spread over {spread:.4f}")
    return well


def watched(programs, data, device, steps, preset, lanes, words):
    """Trains some steps; the metrics, the training, and memory."""
    more = {"lanes": {"count": lanes[0], "batch": lanes[1]}, "vocab": {"file": str(words)}}
    training = Training(programs, device, min(16, os.cpu_count()), spec(data, preset, 1000, **more))
    with Memory(training) as memory:
        rows = training.until(steps)
    return rows, training, memory


def vit(programs, data, devices, steps, sizes=(("vit-b", 90), ("vit-l", 75))):
    """Single lanes of the paper's models."""
    with tempfile.TemporaryDirectory() as folder:
        words = vocabulary(data, folder)
        for preset, batch in sizes:
            rows, training, memory = watched(programs, data, devices[-1], steps, preset, (1, batch), words)
            times = training.step_seconds(2)
            for row in (rows[0], rows[-1]):
                losses = ", ".join(f"{name} {row[name]:.4f}" for name in LOSSES)
                print(f"{preset} × {batch}, step {row['step']}: {losses}, norm of the gradient {row['grad_norm']:.3f}")
            print(
                f"{preset} × {batch}: {statistics.median(times) * 1e3:.1f} ms a step ({min(times) * 1e3:.1f}–{max(times) * 1e3:.1f}), "
                f"{memory.device} MiB on the GPU, {memory.host} MiB in the largest process, {training.seconds:.1f} s until step {steps}",
                flush=True,
            )
    return True


def lanes(programs, data, devices, steps, preset="vit-b", batch=256, count=32):
    """The same pairs as many lanes and as one."""
    medians = []
    with tempfile.TemporaryDirectory() as folder:
        words = vocabulary(data, folder)
        for many in (count, 1):
            _, training, memory = watched(programs, data, devices[-1], steps, preset, (many, batch // many), words)
            times = training.step_seconds(2)
            medians.append(statistics.median(times))
            print(
                f"{preset}, {many} lanes of {batch // many}: {medians[-1] * 1e3:.1f} ms a step ({min(times) * 1e3:.1f}–{max(times) * 1e3:.1f}), "
                f"{memory.device} MiB on the GPU",
                flush=True,
            )
    print(f"{count} lanes cost {medians[0] / medians[1]:.2f} times one")
    return True


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("programs", type=Path)
    arguments.add_argument("data", type=Path)
    arguments.add_argument("part", choices=["train", "vit", "lanes"])
    arguments.add_argument("--devices", default="cpu,cuda:0,cuda:0:bf16", help="three: processor, single precision, bf16")
    arguments.add_argument("--steps", type=int)
    arguments.add_argument("--small", action="store_true", help="sizes for trying this out on a processor")
    arguments = arguments.parse_args()
    programs, data, devices = arguments.programs.resolve(), arguments.data.resolve(), arguments.devices.split(",")
    if arguments.part == "train":
        well = train(programs, data, devices, arguments.steps or 500)
    elif arguments.part == "vit":
        sizes = {"sizes": (("nano", 4), ("tiny", 4))} if arguments.small else {}
        well = vit(programs, data, devices, arguments.steps or 8, **sizes)
    else:
        sizes = {"preset": "nano", "batch": 16, "count": 8} if arguments.small else {}
        well = lanes(programs, data, devices, arguments.steps or 8, **sizes)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
