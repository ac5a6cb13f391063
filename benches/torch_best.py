"""BLIP's training step in the reference's arrangement, as fast as PyTorch makes it: the role `best` of `torch_side.py`.

Texts are padded to the longest allowed, and pairs, negatives and generation are passes of their own, as in the reference. What
is done about speed, all of it by PyTorch itself:

- A layer is one function that `torch.compile` sees as a whole, weights are its arguments: it is compiled once for all layers.
- Towers read copies of the parameters in the format that they compute in, made once a step, with queries, keys and values of an
  attention side by side, so that one product gives all of them. Momentum copies likewise.
- Fused attention everywhere: causal where texts are generated, for what a padded row reads is in no loss.
- Negatives are drawn for all samples at once; nothing waits for the device but the end of a step.
- On a GPU, a whole step is one CUDA graph.

Axes: b samples, n tokens, d width, h heads, q entries of a queue, e width of the contrastive space.
"""

import re
import sys
import time

import torch
import torch.nn.functional as F
from blip import EPS_TEXT, EPS_VISION, FLOOR, IGNORED, is_averaged, momentum_name, untied, with_first

BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
SELF = ("attention.self.qkv", "attention.output.dense", "attention.output.LayerNorm")
CROSS = ("crossattention.self.query", "crossattention.self.kv", "crossattention.output.dense", "crossattention.output.LayerNorm")
FEED = ("intermediate.dense", "output.dense", "output.LayerNorm")
# Rows of the keys' mask lie so far apart that the kernel takes them as they are.
ALIGNED = 16
# Steps before one is captured as a graph: the first compiles, and what is made once is there then.
WARM = 3


def joined(name):
    """What a parameter is a part of: `….self.query.weight` of `….self.qkv.weight`. Cross-attention asks for queries alone."""
    found = re.fullmatch(r"(.*\.self\.)(query|key|value)(\.\w+)", name)
    if found is None:
        return name
    head, part, kind = found.groups()
    if "crossattention" in head:
        return name if part == "query" else f"{head}kv{kind}"
    return f"{head}qkv{kind}"


class Copies:
    """Parameters as the towers read them."""

    def __init__(self, tensors, dtype, trained):
        groups = {}
        for name in tensors:
            groups.setdefault(joined(name), []).append(name)
        self.names = [name for names in groups.values() for name in names]
        self.sources = [tensors[name].detach() for name in self.names]
        self.leaves = {
            whole: torch.cat([tensors[name].detach() for name in names]).to(dtype).requires_grad_(trained)
            for whole, names in groups.items()
        }
        self.parts = self.taken_apart(leaf.detach() for leaf in self.leaves.values())

    def taken_apart(self, joined_tensors):
        """Parts of tensors that are shaped as the leaves, in the order of the sources."""
        parts, sources = [], iter(self.sources)
        for tensor in joined_tensors:
            at = 0
            while at < len(tensor):
                rows = len(next(sources))
                parts.append(tensor[at : at + rows])
                at += rows
        return parts

    def refresh(self):
        torch._foreach_copy_(self.parts, self.sources)

    def of(self, *names):
        """Weights and biases of these linear maps and norms."""
        return tuple(self.leaves[untied(f"{name}.{kind}")] for name in names for kind in ("weight", "bias"))

    def under(self, root, names):
        return self.of(*(f"{root}.{name}" for name in names))


def norm(x, weight, bias, eps):
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def attend(q, k, v, bias=None, rate=0.0, causal=False):
    """b × h × n × dim → b × n × d"""
    return F.scaled_dot_product_attention(q, k, v, bias, rate, causal).transpose(1, 2).flatten(2)


def taken_apart(x, parts, heads):
    """b × n × parts·d → parts of b × h × n × dim"""
    b, n, d = x.shape
    return x.view(b, n, parts, heads, d // (parts * heads)).permute(2, 0, 3, 1, 4).unbind()


def image_start(patches, weight, bias, token, positions):
    """b × n−1 × 3·p·p → b × n × d"""
    x = F.linear(patches, weight.flatten(1), bias)
    return torch.cat([token.expand(len(x), -1, -1), x], dim=1) + positions


def image_block(x, weights, heads):
    norm1, norm1_bias, qkv, qkv_bias, out, out_bias, norm2, norm2_bias, up, up_bias, down, down_bias = weights
    y = F.linear(norm(x, norm1, norm1_bias, EPS_VISION), qkv, qkv_bias)
    x = x + F.linear(attend(*taken_apart(y, 3, heads)), out, out_bias)
    y = F.gelu(F.linear(norm(x, norm2, norm2_bias, EPS_VISION), up, up_bias))
    return x + F.linear(y, down, down_bias)


def image_end(x, weight, bias):
    return norm(x, weight, bias, EPS_VISION)


def text_start(ids, words, positions, weight, bias, rate):
    """b × n → b × n × d"""
    x = F.embedding(ids, words) + positions[: ids.shape[1]]
    return F.dropout(norm(x, weight, bias, EPS_TEXT), rate)


def text_layer(x, images, bias, own, cross, feed, heads, rate, causal):
    """A layer of a text tower, with cross-attention if there are images."""
    qkv, qkv_bias, out, out_bias, weight, weight_bias = own
    y = attend(*taken_apart(F.linear(x, qkv, qkv_bias), 3, heads), bias, rate, causal)
    x = norm(F.dropout(F.linear(y, out, out_bias), rate) + x, weight, weight_bias, EPS_TEXT)
    if images is not None:
        query, query_bias, kv, kv_bias, out, out_bias, weight, weight_bias = cross
        (q,), (k, v) = taken_apart(F.linear(x, query, query_bias), 1, heads), taken_apart(F.linear(images, kv, kv_bias), 2, heads)
        x = norm(F.dropout(F.linear(attend(q, k, v, None, rate), out, out_bias), rate) + x, weight, weight_bias, EPS_TEXT)
    up, up_bias, down, down_bias, weight, weight_bias = feed
    y = F.linear(F.gelu(F.linear(x, up, up_bias)), down, down_bias)
    return norm(F.dropout(y, rate) + x, weight, weight_bias, EPS_TEXT)


def feature(x, weight, bias):
    """First tokens of b × n × d → unit vectors in single precision, b × e."""
    return F.normalize(F.linear(x[:, 0], weight, bias).float(), dim=-1)


def contrast(temp, student, teacher, queues, alpha):
    """The contrastive loss, and what negatives are drawn with, b × b, both ways. Queues are q × e."""
    (image, words), (image_m, words_m), (image_queue, text_queue) = student, teacher, queues
    losses, weights = [], []
    for query, query_m, own, queue in [(image, image_m, words_m, text_queue), (words, words_m, image_m, image_queue)]:
        keys = torch.cat([own, queue]).T
        logits = query @ keys / temp
        soft = torch.softmax(query_m @ keys / temp.detach(), dim=1)
        logs = torch.log_softmax(logits, dim=1)
        losses.append(-(alpha * (soft * logs).sum(dim=1) + (1 - alpha) * logs.diagonal()).mean())
        near = torch.softmax(logits.detach()[:, : len(query)], dim=1) + FLOOR
        weights.append(near * (1 - torch.eye(len(query), device=near.device)))
    return (losses[0] + losses[1]) / 2, weights


def drawn(weights):
    """An index for each row, as `torch.multinomial` draws it, without its checks."""
    return (weights / torch.empty_like(weights).exponential_()).argmax(dim=1)


def matching(pairs, foreign, labels, weight, bias):
    """Loss of the first tokens of b pairs and 2b others."""
    x = torch.cat([pairs[:, 0], foreign[:, 0]])
    return F.cross_entropy(F.linear(x, weight, bias).float(), labels)


def modelling(x, targets, dense, dense_bias, weight, weight_bias, words, bias, smoothing):
    """Loss of b × n × d against the next tokens, b × n−1, without log-probabilities in memory."""
    x = norm(F.gelu(F.linear(x[:, :-1], dense, dense_bias)), weight, weight_bias, EPS_TEXT)
    logits, targets = F.linear(x, words, bias).flatten(0, 1).float(), targets.flatten()
    kept = targets != IGNORED
    right = logits.gather(1, targets.clamp_min(0)[:, None])[:, 0]
    losses = logits.logsumexp(dim=1) - (1 - smoothing) * right - smoothing * logits.mean(dim=1)
    return (losses * kept).sum() / kept.sum()


REGIONS = (image_start, image_block, image_end, text_start, text_layer, feature, contrast, matching, modelling)


class Best:
    """The model of a `torch_side.Step` in training, computing in `dtype`."""

    def __init__(self, step, dtype, compiled=True):
        self.config, self.params, self.averages, self.followed = step.config, step.params, step.averages, step.followed
        self.rate, self.image, self.device = step.drop.rate, step.image, step.image.device
        self.dtype = dtype
        n, pad = step.padded_to, step.config.vocab["pad"]
        self.ids = torch.tensor([text + [pad] * (n - len(text)) for text in step.texts], device=self.device)
        self.mask = torch.tensor([[1] * len(text) + [0] * (n - len(text)) for text in step.texts], device=self.device)
        self.labels = (torch.arange(3 * len(self.ids), device=self.device) < len(self.ids)).long()
        self.temp = self.params["temp"]
        self.student = Copies({name: value for name, value in self.params.items() if name != "temp"}, dtype, True)
        followed = [momentum_name(name) for name in self.params if is_averaged(name)]
        self.teacher = Copies(dict(zip(followed, self.averages)), dtype, False)
        self.queues = tuple(step.queues[name].T.contiguous() for name in ("image_queue", "text_queue"))
        self.pointer = torch.zeros((), dtype=torch.long, device=self.device)
        for value in self.params.values():
            value.grad = torch.zeros_like(value)
        self.gradients = [self.params[name].grad for name in self.student.names]
        on_gpu = self.device.type == "cuda"
        self.optimiser = torch.optim.AdamW(self.params.values(), lr=1e-4, weight_decay=0.05, fused=True, capturable=on_gpu)
        for region in REGIONS:
            made = torch.compile(region, dynamic=False, fullgraph=True) if compiled else region
            setattr(self, region.__name__, made)
        self.may_capture, self.graph, self.found = on_gpu, None, None

    def look(self, copies, suffix=""):
        """Image states b × n × d and unit features; of the teacher, the first state alone."""
        vision, root = self.config.vision, f"visual_encoder{suffix}"
        (b, _, side, _), patch = self.image.shape, vision["patch"]
        grid = side // patch
        cut = self.image.to(self.dtype).view(b, 3, grid, patch, grid, patch)
        cut = cut.permute(0, 2, 4, 1, 3, 5).reshape(b, grid * grid, 3 * patch * patch)
        token, positions = (copies.leaves[f"{root}.{name}"] for name in ("cls_token", "pos_embed"))
        x = self.image_start(cut, *copies.of(f"{root}.patch_embed.proj"), token, positions)
        for i in range(vision["depth"]):
            x = self.image_block(x, copies.under(f"{root}.blocks.{i}", BLOCK), vision["heads"])
        x = self.image_end(x[:, :1] if suffix else x, *copies.of(f"{root}.norm"))
        return x, self.feature(x, *copies.of(f"vision_proj{suffix}"))

    def read(self, copies, root, ids, bias, images=None, causal=False):
        """Text states, b × n × d."""
        text, table = self.config.text, untied(f"{root}.embeddings.")
        tables = (copies.leaves[f"{table}{name}_embeddings.weight"] for name in ("word", "position"))
        x = self.text_start(ids, *tables, *copies.of(f"{table}LayerNorm"), self.rate)
        for i in range(text["depth"]):
            own, cross, feed = (copies.under(f"{root}.encoder.layer.{i}", part) for part in (SELF, () if images is None else CROSS, FEED))
            x = self.text_layer(x, images, bias, own, cross, feed, text["heads"], self.rate, causal)
        return x

    def hidden(self, mask):
        """What is added to scores so that padding is not seen, b × 1 × 1 × n."""
        b, n = mask.shape
        room = torch.zeros(b, 1, 1, -(-n // ALIGNED) * ALIGNED, dtype=self.dtype, device=self.device)
        return room[..., :n].masked_fill_(mask[:, None, None, :] == 0, -10000.0)

    def losses(self, negatives=None):
        """The three losses, and the teacher's features."""
        ids, mask, vocab, of = self.ids, self.mask, self.config.vocab, self.student.of
        bias = self.hidden(mask)
        with torch.no_grad():
            image_m = self.look(self.teacher, "_m")[1]
            text_m = self.feature(self.read(self.teacher, "text_encoder_m", ids, bias), *self.teacher.of("text_proj_m"))
        images, image = self.look(self.student)
        words = self.feature(self.read(self.student, "text_encoder", ids, bias), *of("text_proj"))
        itc, (i2t, t2i) = self.contrast(self.temp, (image, words), (image_m, text_m), self.queues, 0.4)
        image_of_text, text_of_image = negatives or (drawn(t2i), drawn(i2t))
        encoded = with_first(ids, vocab["enc"])
        pairs = self.read(self.student, "text_encoder", encoded, bias, images)
        texts, seen = (torch.cat([all_of, all_of[text_of_image]]) for all_of in (encoded, mask))
        shown = torch.cat([images.index_select(0, image_of_text), images])
        foreign = self.read(self.student, "text_encoder", texts, self.hidden(seen), shown)
        itm = self.matching(pairs, foreign, self.labels, *of("itm_head"))
        decoded = with_first(ids, vocab["dec"])
        states = self.read(self.student, "text_decoder.bert", decoded, None, images, causal=True)
        head = "text_decoder.cls.predictions"
        targets = decoded.masked_fill(mask == 0, IGNORED)[:, 1:]
        of_head = of(f"{head}.transform.dense", f"{head}.transform.LayerNorm", f"{head}.decoder")
        lm = self.modelling(states, targets, *of_head, self.config.label_smoothing)
        return (itc, itm, lm), (image_m, text_m)

    def work(self, negatives=None):
        """A whole step; its losses, on the device."""
        with torch.no_grad():
            self.temp.clamp_(*self.config.temperature)
            torch._foreach_lerp_(self.averages, self.followed, 1 - self.config.momentum)
            self.student.refresh()
            self.teacher.refresh()
        losses, teacher = self.losses(negatives)
        found = torch.autograd.grad(sum(losses), [self.temp, *self.student.leaves.values()])
        with torch.no_grad():
            at = (torch.arange(len(self.ids), device=self.device) + self.pointer) % self.config.queue
            for queue, features in zip(self.queues, teacher):
                queue.index_copy_(0, at, features)
            self.pointer.add_(len(self.ids)).remainder_(self.config.queue)
            self.temp.grad.copy_(found[0])
            torch._foreach_copy_(self.gradients, self.student.taken_apart(found[1:]))
            self.optimiser.step()
            return torch.stack(losses).float()

    def step(self):
        """A whole step; its losses. The first is compiled, and on a GPU a few more are made until the step is a graph."""
        if self.graph is None and self.may_capture:
            began = time.perf_counter()
            for _ in range(WARM):
                self.work()
            self.capture()
            print(f"torch_best: ready after {time.perf_counter() - began:.1f} s", file=sys.stderr)
        if self.graph is None:
            return self.work().tolist()
        self.graph.replay()
        return self.found.tolist()

    def capture(self):
        """Makes the step one graph, or says why that cannot be done. What is captured is not run."""
        self.may_capture = False
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.found = self.work()
            self.graph = graph
            print("torch_best: a step is one CUDA graph", file=sys.stderr)
        except RuntimeError as error:
            torch.cuda.synchronize()
            print(f"torch_best: a step is no CUDA graph: {error}", file=sys.stderr)
