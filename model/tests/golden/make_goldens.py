"""Writes the goldens that Medley's tests compare with: `make_goldens.py DIRECTORY [--full]`.

Exact values are computed in fp64. Beside a tensor NAME lies `NAME#fp32`: the norm and the largest element of what PyTorch's
own fp32 differs from it, so that a test can tell rounding from error. `--full` also runs the model at its true size, which
takes minutes and some ten gigabytes of memory.
"""

import argparse
import gc
import json
import math
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers.generation import logits_process

import blip
from blip import Batch, Config, Drops, Trainer, is_averaged, momentum_name
from finetune import UNKNOWN, Captioner, Filter
from stream import MULTIMODAL, NEGATIVES, STUDENT, TEACHER, Masks, Stream, draw, integers, seeded, signs

SMALL = {
    "vision": {"image_size": 24, "patch": 8, "width": 18, "depth": 3, "heads": 3, "mlp": 37},
    "text": {"width": 20, "depth": 2, "heads": 4, "ffn": 41, "positions": 11},
    "vocab": {"size": 41, "cls": 2, "dec": 4, "enc": 5},
    "embed_dim": 7,
    "queue": 12,
    "temperature": [0.08, 0.5],  # Above where it starts, so that the clamp acts.
}
BASE = {
    "vision": {"image_size": 224, "patch": 16, "width": 768, "depth": 12, "heads": 12, "mlp": 3072},
    "text": {"width": 768, "depth": 12, "heads": 12, "ffn": 3072, "positions": 512},
    "vocab": {"size": 30524, "cls": 101, "dec": 30522, "enc": 30523},
    "embed_dim": 256,
    "queue": 57600,
}
LR = 3e-4
FORWARD = ["image_embeds", "text_first", "image_feat", "text_feat", "itm_logits", "lm_logits"]
FEATURES = ["image_feat_m", "text_feat_m"]
PROJECTIONS = 8


def with_error(name, exact, single):
    """A tensor in fp64, and how far fp32 is from it."""
    difference = single.detach().double() - exact.detach()
    error = torch.stack([difference.norm(), difference.abs().max()])
    return {name: exact.detach().contiguous(), f"{name}#fp32": error}


def save(tensors, path):
    tensors = {name: value for name, value in tensors.items() if value is not None}
    save_file({name: value.detach().clone().contiguous() for name, value in tensors.items()}, path)


def seeded_state(config, seed, shift, queue_shift):
    """A state without zero tensors, from a seed."""
    state = {}
    for name, shape in blip.shapes(config).items():
        state[name] = seeded(name, shape, seed, shift)
        if is_averaged(name):
            state[momentum_name(name)] = seeded(momentum_name(name), shape, seed, shift)
    for name in blip.QUEUES:
        state[name] = seeded(name, (config.embed_dim, config.queue), seed, queue_shift)
    state["queue_ptr"] = torch.zeros(1, dtype=torch.long)
    return state


def texts_batch(texts):
    """Token ids and mask, padded to the longest."""
    longest = max(map(len, texts))
    ids = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
    return ids, mask


def seeded_batch(name, config, texts, negatives=(None, None), alpha=None, idx=None):
    ids, mask = texts_batch(texts)
    side = config.vision["image_size"]
    image = torch.from_numpy(integers(name, (len(texts), 3, side, side), 1)) * 2.0**-14
    negatives = (chosen and torch.tensor(chosen) for chosen in negatives)
    return Batch(image, ids, mask, *negatives, alpha, LR, idx and torch.tensor(idx))


def in_precision(batch, dtype):
    return Batch(**{**vars(batch), "image": batch.image.to(dtype)})


def both(run):
    """Results of `run(dtype)` in fp64 and fp32."""
    return run(torch.float64), run(torch.float32)


def step_file(found, gradients, forward=()):
    """Losses, features and gradients of one step, each a pair (fp64, fp32)."""
    out = {}
    for name in found[0]["losses"]:
        out |= with_error(f"loss.{name}", *(f["losses"][name] for f in found))
    for name in [*FEATURES, *forward]:
        if name not in found[0]:
            continue
        out |= with_error(name, *(f[name] for f in found))
    for name in gradients[0]:
        out |= with_error(f"grad.{name}", *(g[name] for g in gradients))
    return out


def two_steps(folder, config, state, batches, trainer=Trainer):
    """Two whole steps: what goes in, what the first yields, and the state after the second."""
    save(state, folder / "state.safetensors")
    for i, batch in enumerate(batches):
        numbers = {"alpha": batch.alpha, "lr": batch.lr}
        scalars = {name: value and torch.tensor(value, dtype=torch.float64) for name, value in numbers.items()}
        save({**vars(batch), **scalars}, folder / f"batch-{i}.safetensors")

    def run(dtype):
        training = trainer(config, state, dtype)
        found, gradients = zip(*(training.step(in_precision(batch, dtype)) for batch in batches))
        return training, found, gradients

    exact, single = both(run)
    first = step_file([exact[1][0], single[1][0]], [exact[2][0], single[2][0]], FORWARD)
    save(first, folder / "step-0.safetensors")
    after = {}
    for name in exact[2][0]:
        after |= with_error(name, exact[0].params[name], single[0].params[name])
    if FEATURES[0] in exact[1][0]:
        for group in ["momentum", "queues"]:
            for name, value in getattr(exact[0], group).items():
                after |= with_error(name, value, getattr(single[0], group)[name])
    after["idx_queue"] = getattr(exact[0], "queued", None)
    save(after, folder / "after.safetensors")


def opened(out, name, **more):
    """A folder with the configuration of a small shape whose dimensions are all different."""
    folder = out / name
    folder.mkdir(exist_ok=True)
    dims = {**SMALL, **more}
    (folder / "config.json").write_text(json.dumps(dims, indent=2) + "\n")
    return folder, Config(**dims)


def small(out):
    folder, config = opened(out, "small")
    batches = [
        seeded_batch("batch.0", config, [[2, 9, 10, 3], [2, 11, 12, 9, 13, 14, 3], [2, 40, 3]], ([1, 2, 0], [2, 0, 0]), 0.3),
        seeded_batch("batch.1", config, [[2, 15, 3], [2, 16, 17, 18, 3], [2, 9, 16, 20, 21, 22, 23, 24, 25, 3]], ([2, 0, 1], [1, 2, 1]), 0.4),
    ]
    two_steps(folder, config, seeded_state(config, 1, 17, 16), batches)


def captioner(out):
    """Two lanes of two; texts begin with a prompt of three tokens, and one has nothing but its end after it."""
    folder, config = opened(out, "captioner", objective="captioner", prompt_tokens=3, lanes=2)
    said = [[[9, 10], [11, 12, 9, 13, 14], [40], []], [[15], [16, 17, 18, 19, 20, 21], [9, 16], [22]]]
    texts = [[[2, 6, 7, 8, *words, 3] for words in batch] for batch in said]
    batches = [seeded_batch(f"batch.{i}", config, batch) for i, batch in enumerate(texts)]
    state = seeded_state(config, 1, 17, 16)
    state = {name: state[name] for name in Captioner(config, state, torch.float32).step(batches[0])[1]}
    two_steps(folder, config, state, batches, Captioner)


def filter_(out):
    """Two lanes of three, some of whose samples show one image, in a lane, over lanes, and in the queue."""
    folder, config = opened(out, "filter", objective="filter", lanes=2)
    state = seeded_state(config, 1, 17, 16)
    del state["queue_ptr"]
    state = {name: value for name, value in state.items() if not name.startswith("text_decoder.")}
    state["ptr_queue"] = torch.tensor([6])
    state["idx_queue"] = torch.tensor([[UNKNOWN, 7, 4, UNKNOWN, 7, 9, UNKNOWN, 5, 4, UNKNOWN, 0, UNKNOWN]])
    texts = [
        [[2, 9, 10, 3], [2, 11, 12, 9, 13, 14, 3], [2, 40, 3], [2, 15, 16, 3], [2, 9, 3], [2, 17, 18, 19, 3]],
        [[2, 15, 3], [2, 16, 17, 18, 3], [2, 9, 16, 20, 21, 22, 23, 24, 25, 3], [2, 40, 10, 3], [2, 30, 31, 3], [2, 9, 3]],
    ]
    idx, alpha = [[7, 4, 7, 0, 4, 3], [0, 3, 8, 8, 7, 1]], [0.3, 0.4]
    batches = [seeded_batch(f"batch.{i}", config, texts[i], alpha=alpha[i], idx=idx[i]) for i in range(2)]
    drawing = Filter(config, state, torch.float64)
    drawn = [drawing.step(in_precision(batch, torch.float64))[0]["batch"] for batch in batches]
    batches = [
        replace(batch, image_negatives=chosen.image_negatives, text_negatives=chosen.text_negatives)
        for batch, chosen in zip(batches, drawn)
    ]
    two_steps(folder, config, state, batches, Filter)


def dropped(out):
    """One step with dropout and drop-path everywhere, the teacher's included, and negatives drawn from its logits."""
    config = Config(**SMALL)
    seed, step, lane, rate, path = 5, 9, 1, 0.1, 0.3
    state = seeded_state(config, 1, 17, 16)
    batch = seeded_batch("batch.0", config, [[2, 9, 10, 3], [2, 11, 12, 9, 13, 14, 3], [2, 40, 3]], ([0], [0]), 0.3)

    def masks(which, first=0):
        return Masks(seed, step, lane, which, rate, path, config.vision["depth"], first)

    drops = Drops(masks(STUDENT), masks(TEACHER), lambda first: masks(MULTIMODAL, first))
    stream = Stream(seed, NEGATIVES).at(step, lane, STUDENT)

    def negatives(logits):
        i2t, t2i = (blip.negative_weights(l) for l in logits)
        rows = range(len(i2t))
        uniforms = [stream.uniform(list(rows), kind, 0, 0) for kind in (0, 1)]
        return draw(t2i, uniforms[0]), draw(i2t, uniforms[1])

    def run(dtype):
        trainer = Trainer(config, state, dtype)
        found = trainer.losses(in_precision(batch, dtype), drops, negatives)
        gradients = torch.autograd.grad(sum(found["losses"].values()), list(trainer.params.values()))
        return found, dict(zip(trainer.params, gradients))

    found, gradients = zip(*both(run))
    save(step_file(found, gradients), out / "dropout.safetensors")


def negatives(out):
    """Negatives drawn from given logits with Medley's own uniform numbers."""
    b, q, draws = 6, 5, 300
    logits = [torch.from_numpy(integers(f"logits.{way}", (b, b + q), 1)) * 2.0**-12 for way in ("i2t", "t2i")]
    i2t, t2i = (blip.negative_weights(l.double()) for l in logits)
    drawn = {"image_negatives": [], "text_negatives": []}
    for step in range(draws):
        stream = Stream(3, NEGATIVES).at(step)
        uniforms = [stream.uniform(list(range(b)), kind, 0, 0) for kind in (0, 1)]
        drawn["image_negatives"].append(draw(t2i, uniforms[0]))
        drawn["text_negatives"].append(draw(i2t, uniforms[1]))
    drawn = {name: torch.stack(rows).to(torch.int32) for name, rows in drawn.items()}
    save({"i2t_logits": logits[0], "t2i_logits": logits[1], **drawn}, out / "negatives.safetensors")


def optimiser(out):
    """Ten steps of AdamW on given gradients of very different sizes."""
    n, steps, lr, decay = 96, 10, 1e-2, 0.5
    start = torch.from_numpy(integers("start", (n,), 1)) * 2.0**-15
    sizes = 2.0 ** torch.linspace(-24, 6, n).round()
    gradients = torch.from_numpy(integers("gradients", (steps, n), 1)) * 2.0**-15 * sizes
    gradients[:, 0] = 0.0

    def run(dtype):
        p = start.to(dtype).clone().requires_grad_()
        adamw = torch.optim.AdamW([p], lr=lr, weight_decay=decay)
        for g in gradients.to(dtype):
            p.grad = g.clone()
            adamw.step()
        return p

    save({"start": start, "gradients": gradients, **with_error("end", *both(run))}, out / "optimiser.safetensors")


def positions(out):
    """Position tables at other sizes, as the reference resamples them when it loads a checkpoint."""

    def resized(table, new):
        old = math.isqrt(len(table) - 1)
        grid = table[1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
        return torch.cat([table[:1], grid.permute(0, 2, 3, 1).flatten(0, 2)])

    width = 2
    tables = {14: torch.from_numpy(integers("positions", (1 + 14 * 14, width), 1)) * 2.0**-15}
    tensors = {"table.14": tables[14]}
    for old, new in [(14, 24), (24, 30), (14, 30), (24, 14)]:
        tables.setdefault(new, resized(tables[old].double(), new).float())
        exact, single = (resized(tables[old].to(dtype), new) for dtype in (torch.float64, torch.float32))
        tensors |= with_error(f"{old}.{new}", exact, single)
    tensors["table.24"] = tables[24]
    save(tensors, out / "positions.safetensors")


def schedules(out):
    """Learning rate and alpha of some steps, by the reference's rules: one value an epoch, warm-up in the first."""
    per_epoch, warmup, peak, least, start = 4000, 3000, 3e-4, 1e-6, 1e-6

    def pretrain(step):
        epoch, i = divmod(step, per_epoch)
        if epoch == 0:
            return min(peak, start + (peak - start) * i / warmup)
        return max(least, peak * 0.9**epoch)

    def finetune(step, epochs=6, peak=1e-5):
        return 0.5 * peak * (1 + math.cos(math.pi * (step // per_epoch) / epochs))

    def alpha(step, ramp):
        return 0.4 * min(1.0, step / (ramp * per_epoch))

    steps = [0, 1, 1499, 2999, 3000, 3999, 4000, 7999, 8000, 11999, 23999]
    table = {
        "steps": steps,
        "pretrain": [pretrain(s) for s in steps],
        "late": [[e, pretrain(e * per_epoch)] for e in (19, 50, 54, 55, 80)],
        "finetune": [finetune(s) for s in steps],
        "alpha_pretrain": [alpha(s, 2) for s in steps],
        "alpha_retrieval": [alpha(s, 1) for s in steps],
    }
    (out / "schedule.json").write_text(json.dumps(table, indent=1) + "\n")


def nucleus(out):
    """What may come next, with its probability, after the penalties and cuts of nucleus sampling."""
    vocabulary, cases = 60, []
    settings = [(0.9, 50, 1.1), (0.9, 0, 1.0), (0.5, 0, 1.3), (0.99, 7, 1.1), (0.05, 3, 1.0)]
    for i, (top_p, top_k, penalty) in enumerate(settings):
        logits = integers(f"next.{i}", (vocabulary,), 1) * 2.0**-13
        present = [4, 17, 23, 4, 31]
        banned = [3] if i % 2 == 0 else []
        scores = torch.from_numpy(logits)[None].double()
        chain = logits_process.LogitsProcessorList()
        chain.append(logits_process.RepetitionPenaltyLogitsProcessor(penalty))
        if banned:
            chain.append(logits_process.MinLengthLogitsProcessor(len(present) + 1, eos_token_id=torch.tensor(banned)))
        if top_k:
            chain.append(logits_process.TopKLogitsWarper(top_k))
        chain.append(logits_process.TopPLogitsWarper(top_p))
        shares = torch.softmax(chain(torch.tensor([present]), scores)[0], dim=0)
        kept = [[t, p] for t, p in enumerate(shares.tolist()) if p > 0]
        cases.append(
            {"logits": logits.tolist(), "present": present, "banned": banned, "top_p": top_p, "top_k": top_k,
             "repetition_penalty": penalty, "kept": sorted(kept, key=lambda pair: -pair[1])}
        )
    (out / "nucleus.json").write_text(json.dumps(cases) + "\n")


def projected(name, value):
    """A tensor as its projections on rows of signs."""
    flat = value.detach().double().flatten()
    return torch.stack([torch.from_numpy(row) @ flat for row in signs(name, len(flat), PROJECTIONS)])


def digest(name, exact, single):
    """Projections and norm of a tensor that is too large to keep, and how far fp32 is from it."""
    error = with_error(name, exact, single)[f"{name}#fp32"]
    return {name: projected(name, exact), f"{name}#norm": exact.detach().norm(), f"{name}#fp32": error}


def base_step(config, dtype):
    """One whole step at the true size. Each tensor has an optimiser of its own, so that only one's moments are in memory."""
    state = seeded_state(config, 1, 20, 18)
    texts = [[101, *range(2000, 2000 + n), 102] for n in (9, 14)]
    batch = in_precision(seeded_batch("batch.0", config, texts, ([1, 0], [1, 0]), 0.4), dtype)
    trainer = Trainer(config, state, dtype)
    before = {name: state[name] for name in trainer.params}
    del state
    trainer.begin()
    found = trainer.losses(batch)
    sum(found["losses"].values()).backward()
    losses = {name: loss.detach() for name, loss in found.pop("losses").items()}
    found = {"losses": losses, **{name: value.detach() for name, value in found.items()}}
    gradients = {}
    for name, p in trainer.params.items():
        gradients[name] = p.grad.clone()
        torch.optim.AdamW([p], lr=LR, weight_decay=config.weight_decay).step()
        p.grad = None
    return found, gradients, {name: p.detach() for name, p in trainer.params.items()}, before


def base(out):
    config = Config(**BASE)
    (out / "base.json").write_text(json.dumps(BASE, indent=2) + "\n")
    single = base_step(config, torch.float32)
    gc.collect()
    exact = base_step(config, torch.float64)
    tensors = {}
    for name in exact[0]["losses"]:
        tensors |= with_error(f"loss.{name}", exact[0]["losses"][name], single[0]["losses"][name])
    for name in [*FEATURES, *FORWARD]:
        tensors |= digest(name, exact[0][name], single[0][name])
    for name in exact[1]:
        tensors |= digest(f"grad.{name}", exact[1][name], single[1][name])
        after, before, rough = (blip.without_key_biases(name, p[name]) for p in (exact[2], exact[3], single[2]))
        tensors |= digest(f"after.{name}", after, rough)
        tensors[f"after.{name}#update"] = (after - before).norm()
    save(tensors, out / "base.safetensors")


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("directory", type=Path)
    arguments.add_argument("--full", action="store_true", help="also at the model's true size")
    arguments = arguments.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    makers = [small, captioner, filter_, dropped, negatives, optimiser, positions, schedules, nucleus] + [base] * arguments.full
    for make in makers:
        make(arguments.directory)
        print(make.__name__.rstrip("_"), flush=True)


if __name__ == "__main__":
    main()
