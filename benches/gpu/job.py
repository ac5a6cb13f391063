"""What `job.sh` submits, and what it says of a job at the end: `job.py KIND DATA PRECISION`, `job.py show FILE`."""

import json
import sys
from datetime import datetime
from pathlib import Path


def document(kind, data, precision):
    """A job as it is submitted."""
    job = {"name": kind, "kind": "bootstrap", "preset": "tiny", "data": {"root": data}, "pretrain": {"precision": precision}}
    if kind == "quick":
        shorten(job, 30, 12, 10)
    if kind == "capfilt":
        job.update(preset="vit-b", lanes={"count": 1, "batch": 8}, capfilt={"batch": 64}, evaluate={"rerank": 4, "batch": 32})
        shorten(job, 2, 2, 2)
    return job


def shorten(job, pretrain, others, checkpoint):
    for stage, steps in [("pretrain", pretrain), ("captioner", others), ("filter", others)]:
        job.setdefault(stage, {}).update(length={"by": "steps", "count": steps}, warmup_steps=steps // 4)
    job["checkpoint"] = {"every_steps": checkpoint}


def seconds(stage):
    """How long a stage took."""
    began, ended = (datetime.fromisoformat(stage[at]) for at in ("started_at", "finished_at"))
    return (ended - began).total_seconds()


def show(shown):
    """Time and speed of stages, and the losses of the last epoch of those that train."""
    counts = {"web": shown["datasets"][0]["counts"].get("web")} if shown["datasets"] else {}
    for stage in shown["job"]["stages"]:
        took = seconds(stage)
        line = f"{stage['name']:14} {took:8.1f} s"
        if stage["epochs"]:
            last = stage["epochs"][-1]
            losses = ", ".join(f"{name} {last[f'mean_{name}']:.4f}" for name in ("itc", "itm", "lm"))
            line += f"  {stage['done']} steps, {stage['done'] / took:.1f} a second, last epoch: {losses}"
        if stage["kind"] == "capfilt" and counts.get("web"):
            line += f"  {counts['web'] / took:.1f} images a second"
        print(line)


if __name__ == "__main__":
    if sys.argv[1] == "show":
        show(json.loads(Path(sys.argv[2]).read_text()))
    else:
        json.dump(document(*sys.argv[1:]), sys.stdout)
