"""Compares goldens that were made again with those that are checked in: `compare.py FRESH CHECKED_IN`.

What was computed may differ by the noise of fp64. PyTorch's errors in
fp32 (`NAME#fp32`) depend on the machine's kernels and are not compared.
"""

import json
import sys
from pathlib import Path

from safetensors.torch import load_file

NOISE = 1e-9


def differences(fresh, stored):
    for name in sorted(fresh.keys() ^ stored.keys()):
        yield f"{name} is only in one of them"
    for name in sorted(fresh.keys() & stored.keys()):
        a, b = fresh[name], stored[name]
        if name.endswith("#fp32"):
            continue
        if a.shape != b.shape or a.dtype != b.dtype:
            yield f"{name}: {a.dtype} {tuple(a.shape)} against {b.dtype} {tuple(b.shape)}"
        elif name.startswith("grad.") and name.endswith(("key.bias", "key.bias#norm")):
            # Zero in exact arithmetic: what is stored is noise.
            if max(a.abs().max(), b.abs().max()) > NOISE:
                yield f"{name}: {a.abs().max():.1e} and {b.abs().max():.1e} are not zero"
        elif (a.double() - b.double()).norm() > NOISE * b.double().norm():
            yield f"{name}: differs by {(a.double() - b.double()).norm():.1e}"


def same_json(a, b):
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= NOISE * abs(b)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same_json, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_json(a[key], b[key]) for key in a)
    return a == b


def main():
    fresh, stored = map(Path, sys.argv[1:3])
    paths = sorted(p.relative_to(fresh) for p in fresh.rglob("*") if p.suffix in (".safetensors", ".json"))
    wrong = 0
    for path in paths:
        if not (stored / path).exists():
            found = ["is not checked in"]
        elif path.suffix == ".json":
            a, b = (json.loads((root / path).read_text()) for root in (fresh, stored))
            found = [] if same_json(a, b) else ["differs"]
        else:
            found = list(differences(load_file(fresh / path), load_file(stored / path)))
        wrong += len(found)
        print(f"{path}: {'as checked in' if not found else ''}")
        for line in found:
            print(f"  {line}")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
