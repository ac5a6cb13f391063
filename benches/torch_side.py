"""PyTorch's side of `run.sh`: BLIP's training step in the reference's arrangement and in Medley's, and transformers' captioner.

`torch_side.py DESCRIPTION THREADS ROLE…` reads commands as Medley's side does (`model/benches/versus.rs`), with the role before
each: `reference step`, `packed step`, `transformers greedy`. DESCRIPTION is the file with the line that Medley's side printed.
With `--device cuda` all of it is done on a GPU, in single precision unless `--bf16` asks for autocast, or for weights of bf16 where
nothing is trained.

- `reference`: texts padded to the longest allowed, one multimodal pass each for pairs, for negatives and for generation, each
  projecting the image's keys and values anew.
- `best`: the same arrangement, compiled, and as fast as PyTorch makes it (`torch_best.py`); `--bf16` computes in copies of bf16.
- `packed`: what Medley does: texts without padding, all 4b of them in one pass, keys and values once a layer, and in last layers
  only the rows that are read.
- `transformers`: `BlipForConditionalGeneration.generate` and `BlipForImageTextRetrieval`: `pairs` by its `forward`, which looks at
  the image of every pair anew; `match` by its parts, so that each image is looked at once.

All use fused attention where PyTorch has it, fused AdamW and a momentum average in one pass. Weights are random: time does not
depend on them.
"""

import argparse
import functools
import json
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent.parent / "model/tests/golden"))
import blip  # noqa: E402
import torch_best  # noqa: E402
import torch_check  # noqa: E402
import torch_library  # noqa: E402
from blip import Batch, Config, Weights, feature, heads_of, is_averaged, linear, momentum_name, norm, with_first  # noqa: E402

EPS = blip.EPS_TEXT


def attend(q, k, v, bias=None, rate=0.0):
    """Queries, keys and values b × h × n × dim → b × n × d."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=rate).transpose(1, 2).flatten(2)


def fused_attention(q, k, v, bias, drop):
    """`blip.attention` by PyTorch's kernel: asked without probabilities, `drop` tells its rate."""
    return attend(q, k, v, None if isinstance(bias, float) else bias, drop(None) or 0.0)


class Dropout(blip.Everything):
    """PyTorch's own dropout at every site."""

    def __init__(self, rate):
        self.rate = rate

    def hidden(self, site, x):
        return F.dropout(x, self.rate) if self.rate else x

    def probabilities(self, site, p):
        return self.rate if p is None else F.dropout(p, self.rate)


def drawn(logits):
    """Negatives of each kind, drawn as the reference draws them: one by one."""
    weights = blip.negative_weights(logits.detach())
    return torch.tensor([torch.multinomial(row, 1).item() for row in weights], device=logits.device)


class Step:
    """A model in training, with the parts that both arrangements share."""

    def __init__(self, description, batch_image):
        self.config = Config(**description["config"])
        self.drop = Dropout(description["dropout"])
        self.texts = description["texts"]
        self.padded_to = description["max_tokens"]
        state = {name: torch.randn(shape) * 0.02 for name, shape in blip.shapes(self.config).items()}
        state["temp"] = torch.tensor(0.07)
        self.params = {name: value.requires_grad_() for name, value in state.items()}
        followed = [name for name in self.params if is_averaged(name)]
        self.followed = [self.params[name] for name in followed]
        momentum = {momentum_name(name): self.params[name].detach().clone() for name in followed}
        self.averages = list(momentum.values())
        self.w = Weights({**self.params, **momentum})
        shape = (self.config.embed_dim, self.config.queue)
        self.queues = {name: F.normalize(torch.randn(shape), dim=0) for name in blip.QUEUES}
        self.pointer = 0
        self.optimiser = torch.optim.AdamW(self.params.values(), lr=1e-4, weight_decay=0.05, fused=True)
        self.image = batch_image

    def step(self, losses):
        """A whole step; `losses` is the arrangement."""
        self.optimiser.zero_grad()
        with torch.no_grad():
            self.params["temp"].clamp_(*self.config.temperature)
            torch._foreach_lerp_(self.averages, self.followed, 1 - self.config.momentum)
        found, (image_m, text_m) = losses(self)
        b = len(self.image)
        at = (torch.arange(b, device=self.image.device) + self.pointer) % self.config.queue
        self.queues["image_queue"][:, at] = image_m.T.float()
        self.queues["text_queue"][:, at] = text_m.T.float()
        self.pointer = (self.pointer + b) % self.config.queue
        sum(found).backward()
        self.optimiser.step()
        return [float(loss) for loss in found]


def reference(s, negatives=None):
    """Losses and momentum features in the reference's arrangement."""
    n, device = s.padded_to, s.image.device
    ids = torch.tensor([text + [s.config.vocab["pad"]] * (n - len(text)) for text in s.texts], device=device)
    mask = torch.tensor([[1] * len(text) + [0] * (n - len(text)) for text in s.texts], device=device)
    batch = Batch(s.image, ids, mask, None, None, 0.4, 0.0)
    teacher = blip.momentum_features(s.w, s.config, batch, s.drop)
    images = blip.vision(s.w, s.config, s.image, drop=s.drop)
    words = blip.text(s.w, s.config, ids, mask, drop=s.drop)
    student = feature(s.w, "vision_proj", images), feature(s.w, "text_proj", words)
    itc, (i2t, t2i) = blip.contrastive(s.w["temp"], student, teacher, s.queues, batch.alpha)
    image_of_text, text_of_image = negatives or (drawn(t2i), drawn(i2t))
    matching = with_first(ids, s.config.vocab["enc"])
    pairs = blip.text(s.w, s.config, matching, mask, image=images, drop=s.drop)
    foreign = blip.text(
        s.w,
        s.config,
        torch.cat([matching, matching[text_of_image]]),
        torch.cat([mask, mask[text_of_image]]),
        image=torch.cat([images[image_of_text], images]),
        drop=s.drop,
    )
    itm = matching_loss(s, torch.cat([pairs[:, 0], foreign[:, 0]]))
    lm, _ = blip.modelling(s.w, s.config, batch, images, s.drop)
    return (itc, itm, lm), teacher


def matching_loss(s, states):
    labels = torch.zeros(len(states), dtype=torch.long, device=states.device)
    labels[: len(states) // 3] = 1
    return F.cross_entropy(linear(s.w, "itm_head", states), labels)


class Packed:
    """Texts one after the other, and the mask by which each sees itself alone."""

    def __init__(self, texts, first, causal=False):
        self.lengths = torch.tensor([len(text) for text in texts])
        self.ids = torch.tensor([token for text in texts for token in [first, *text[1:]]])
        self.positions = torch.cat([torch.arange(len(text)) for text in texts])
        owner = torch.repeat_interleave(torch.arange(len(texts)), self.lengths)
        seen = owner[:, None] == owner[None, :]
        self.seen = seen.tril() if causal else seen
        self.firsts = torch.cumsum(self.lengths, 0) - self.lengths
        self.owner = owner


def embed(s, root, ids, positions):
    table = f"{root}.embeddings"
    x = s.w[f"{table}.word_embeddings.weight"][ids] + s.w[f"{table}.position_embeddings.weight"][positions]
    return s.drop.hidden(0, norm(s.w, f"{table}.LayerNorm", x, EPS))


def output(s, name, attended, x):
    y = s.drop.hidden(0, linear(s.w, f"{name}.output.dense", attended))
    return norm(s.w, f"{name}.output.LayerNorm", y + x, EPS)


def self_attention(s, name, x, packed, first_only=False):
    """Rows r × d → r × d, or one a text."""
    heads = s.config.text["heads"]
    asking, seen = (x[packed.firsts], packed.seen[packed.firsts]) if first_only else (x, packed.seen)
    q, k, v = (
        heads_of(linear(s.w, f"{name}.self.{part}", rows)[None], heads)
        for part, rows in [("query", asking), ("key", x), ("value", x)]
    )
    return output(s, name, attend(q, k, v, seen, s.drop.rate)[0], asking)


def feed(s, layer, x):
    return output(s, layer, F.gelu(linear(s.w, f"{layer}.intermediate.dense", x)), x)


def first_states(s, root, packed):
    """The unimodal encoder: first tokens of packed texts."""
    x = embed(s, root, packed.ids, packed.positions)
    depth = s.config.text["depth"]
    for i in range(depth):
        layer = f"{root}.encoder.layer.{i}"
        x = feed(s, layer, self_attention(s, f"{layer}.attention", x, packed, i == depth - 1))
    return x


class Seats:
    """Rows that read the same image side by side, so that one call attends for all images."""

    def __init__(self, image_of_row, images):
        counts = torch.bincount(image_of_row, minlength=images)
        order = torch.argsort(image_of_row, stable=True)
        place = torch.arange(len(order)) - torch.repeat_interleave(torch.cumsum(counts, 0) - counts, counts)
        widest = int(counts.max())
        self.shape = (images, widest)
        self.seat = torch.empty_like(order)
        self.seat[order] = image_of_row[order] * widest + place

    def attend(self, q, k, v, heads, rate):
        seated = q.new_zeros(self.shape[0] * self.shape[1], q.shape[1]).index_copy(0, self.seat, q)
        seated = heads_of(seated.view(*self.shape, -1), heads)
        return attend(seated, k, v, None, rate).flatten(0, 1)[self.seat]


def multimodal(s, matching, generated, image_of, images):
    """First states of the matching texts and all states of the generated ones."""
    root, decoder = "text_encoder", "text_decoder.bert"
    heads, depth, rows = s.config.text["heads"], s.config.text["depth"], len(matching.ids)
    both = [torch.cat([getattr(matching, part), getattr(generated, part)]) for part in ("ids", "positions")]
    x = embed(s, root, *both)
    of_matching, of_generated = image_of[: len(matching.lengths)], image_of[len(matching.lengths) :]
    for i in range(depth):
        layer, last = f"{root}.encoder.layer.{i}", i == depth - 1
        m = self_attention(s, f"{layer}.attention", x[:rows], matching, last)
        g = self_attention(s, f"{decoder}.encoder.layer.{i}.attention", x[rows:], generated)
        if i == 0 or last:
            seats = Seats(torch.cat([of_matching if last else of_matching[matching.owner], of_generated[generated.owner]]), len(images))
        x, cross = torch.cat([m, g]), f"{layer}.crossattention"
        k, v = (heads_of(linear(s.w, f"{cross}.self.{part}", images), heads) for part in ("key", "value"))
        attended = seats.attend(linear(s.w, f"{cross}.self.query", x), k, v, heads, s.drop.rate)
        x = feed(s, layer, output(s, cross, attended, x))
    return x[: len(matching.lengths)], x[len(matching.lengths) :]


def trunk(s, spec, root):
    """The image tower before its last block: b × n × d."""
    image = s.image
    patches = F.conv2d(image, s.w[f"{root}.patch_embed.proj.weight"], s.w[f"{root}.patch_embed.proj.bias"], stride=spec["patch"])
    x = patches.flatten(2).transpose(1, 2)
    x = torch.cat([s.w[f"{root}.cls_token"].expand(len(x), -1, -1), x], dim=1) + s.w[f"{root}.pos_embed"]
    for i in range(spec["depth"] - 1):
        block = f"{root}.blocks.{i}"
        qkv = linear(s.w, f"{block}.attn.qkv", norm(s.w, f"{block}.norm1", x, blip.EPS_VISION))
        x = x + linear(s.w, f"{block}.attn.proj", attend(*(heads_of(part, spec["heads"]) for part in qkv.chunk(3, dim=-1))))
        y = F.gelu(linear(s.w, f"{block}.mlp.fc1", norm(s.w, f"{block}.norm2", x, blip.EPS_VISION)))
        x = x + linear(s.w, f"{block}.mlp.fc2", y)
    return x


def class_tokens(s, root):
    """The momentum image tower: its last block computes the class token alone."""
    spec = s.config.vision
    width, x = spec["width"], trunk(s, spec, root)
    block, heads = f"{root}.blocks.{spec['depth'] - 1}", spec["heads"]
    normed = norm(s.w, f"{block}.norm1", x, blip.EPS_VISION)
    weight, bias = s.w[f"{block}.attn.qkv.weight"], s.w[f"{block}.attn.qkv.bias"]
    q = F.linear(normed[:, :1], weight[:width], bias[:width])
    k, v = F.linear(normed, weight[width:], bias[width:]).chunk(2, dim=-1)
    attended = attend(*(heads_of(part, heads) for part in (q, k, v)))
    x = x[:, :1] + linear(s.w, f"{block}.attn.proj", attended)
    y = F.gelu(linear(s.w, f"{block}.mlp.fc1", norm(s.w, f"{block}.norm2", x, blip.EPS_VISION)))
    return norm(s.w, f"{root}.norm", x + linear(s.w, f"{block}.mlp.fc2", y), blip.EPS_VISION)


def packed(s, negatives=None):
    """Losses and momentum features in Medley's arrangement."""
    vocab, texts, b = s.config.vocab, s.texts, len(s.texts)
    unimodal = Packed(texts, vocab["cls"])
    with torch.no_grad():
        states = first_states(s, "text_encoder_m", unimodal)
        teacher = (
            feature(s.w, "vision_proj_m", class_tokens(s, "visual_encoder_m")),
            F.normalize(linear(s.w, "text_proj_m", states), dim=-1),
        )
    images = blip.vision(s.w, s.config, s.image, drop=s.drop)
    words = F.normalize(linear(s.w, "text_proj", first_states(s, "text_encoder", unimodal)), dim=-1)
    student = feature(s.w, "vision_proj", images), words
    itc, (i2t, t2i) = blip.contrastive(s.w["temp"], student, teacher, s.queues, 0.4)
    image_of_text, text_of_image = negatives or (drawn(t2i), drawn(i2t))
    own = torch.arange(b)
    matching = Packed([*texts, *texts, *(texts[i] for i in text_of_image)], vocab["enc"])
    generated = Packed(texts, vocab["dec"], causal=True)
    image_of = torch.cat([own, image_of_text, own, own])
    m, g = multimodal(s, matching, generated, image_of, images)
    itm = matching_loss(s, m)
    ends = torch.cumsum(generated.lengths, 0) - 1
    asking = torch.ones(len(g), dtype=torch.bool).index_fill(0, ends, False)
    targets = generated.ids.roll(-1)[asking]
    lm = F.cross_entropy(blip.lm_logits(s.w, g[asking]), targets, label_smoothing=s.config.label_smoothing)
    return (itc, itm, lm), teacher


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("description", type=Path)
    arguments.add_argument("threads", type=int)
    arguments.add_argument("roles", nargs="+", choices=["reference", "best", "packed", "transformers", "check"])
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--bf16", action="store_true")
    arguments = arguments.parse_args()
    torch.set_num_threads(arguments.threads)
    description = json.loads(arguments.description.read_text())
    made = Made(description, arguments.device, torch.bfloat16 if arguments.bf16 else torch.float32)
    plain, blip.attention = blip.attention, fused_attention
    if "check" in arguments.roles:
        return torch_check.check(made, [(reference, plain), (reference, fused_attention), (packed, fused_attention)])
    runs = {role: made.role(role) for role in arguments.roles}
    print("ready", flush=True)
    for line in sys.stdin:
        role, command = line.split()
        wall, cpu = time.perf_counter(), time.process_time()
        done = runs[role](command)
        if arguments.device != "cpu":
            torch.cuda.synchronize()
        found = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "done": done}
        print(json.dumps(found), flush=True)


class Made:
    """What the roles work with, each part made when it is first needed."""

    def __init__(self, description, device, dtype):
        self.description, self.device, self.dtype = description, device, dtype

    def make_image(self):
        side = self.description["config"]["vision"]["image_size"]
        return torch.randn(len(self.description["texts"]), 3, side, side, device=self.device)

    def make_step(self):
        torch.manual_seed(1)
        with torch.device(self.device):
            return Step(self.description, self.make_image())

    @functools.cached_property
    def step(self):
        return self.make_step()

    def role(self, name):
        """What does a command in this role."""
        if name == "best":
            torch.set_float32_matmul_precision("high")
            best = torch_best.Best(self.make_step(), self.dtype)
            return lambda command: best.step()
        if name == "transformers":
            library = torch_library.Transformers(self.description, self.make_image(), self.dtype)
            return lambda command: self.on_device(library.run, command)
        cast = torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32)
        if name == "packed":
            return lambda command: self.on_device(cast(self.step.step), packed)
        # Its tensors name their device: a default one is asked for at each operation, which costs time.
        return lambda command: cast(self.step.step)(reference)

    def on_device(self, work, argument):
        """Does some work whose tensors do not say where they lie."""
        with torch.device(self.device):
            return work(argument)


if __name__ == "__main__":
    main()
