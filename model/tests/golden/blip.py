"""BLIP's pre-training step in plain PyTorch: what Medley's goldens are computed with (`finetune.py` has the other objectives).

Written for reading, from the published description of the model: one function a layer, weights in a dictionary under
their official names, texts padded as the reference pads them, nothing shared between passes. It runs in whatever
precision its tensors have.

Axes: b samples, n tokens, d width, h heads, q entries of a queue, e width of the contrastive space.
"""

import json
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F

EPS_VISION = 1e-6
EPS_TEXT = 1e-12
HIDDEN = -10000.0  # Added to the scores of keys that may not be seen.
FLOOR = 1e-4  # Added to every weight that a negative is drawn with.
IGNORED = -100
QUEUES = ("image_queue", "text_queue")


@dataclass(frozen=True)
class Config:
    """Dimensions, token ids and hyper-parameters, as `medley-worker replay` reads them, and what it leaves out."""

    vision: dict
    text: dict
    vocab: dict
    embed_dim: int
    queue: int
    momentum: float = 0.995
    temperature: tuple = (0.001, 0.5)
    label_smoothing: float = 0.1
    weight_decay: float = 0.05
    objective: str = "pretrain"
    prompt_tokens: int = 0
    lanes: int = 1

    @staticmethod
    def read(path):
        return Config(**json.loads(open(path).read()))


class Weights:
    """Tensors by name; the tied ones answer to both of theirs."""

    def __init__(self, tensors):
        self.tensors = tensors

    def __getitem__(self, name):
        return self.tensors[untied(name)]


def untied(name):
    """The decoder has self-attention, the transform of its head and a bias of its own; all else is the encoder's."""
    if name == "text_decoder.cls.predictions.decoder.weight":
        return "text_encoder.embeddings.word_embeddings.weight"
    if name == "text_decoder.cls.predictions.decoder.bias":
        return "text_decoder.cls.predictions.bias"
    rest = name.removeprefix("text_decoder.bert.")
    return f"text_encoder.{rest}" if rest != name and ".attention." not in name else name


def momentum_name(name):
    """`visual_encoder.norm.bias` is followed by `visual_encoder_m.norm.bias`."""
    root, rest = name.split(".", 1)
    return f"{root}_m.{rest}"


def shapes(config):
    """Every parameter with its shape, tied ones once, in the order of the reference's optimiser."""
    v, t = config.vision, config.text
    found = {"temp": ()}

    def pair(name, *shape):
        found[f"{name}.weight"] = shape
        found[f"{name}.bias"] = shape[:1]

    def attention_of(name, keys_width):
        for part, width in [("query", t["width"]), ("key", keys_width), ("value", keys_width)]:
            pair(f"{name}.self.{part}", t["width"], width)
        pair(f"{name}.output.dense", t["width"], t["width"])
        pair(f"{name}.output.LayerNorm", t["width"])

    d = v["width"]
    found["visual_encoder.cls_token"] = (1, 1, d)
    found["visual_encoder.pos_embed"] = (1, (v["image_size"] // v["patch"]) ** 2 + 1, d)
    pair("visual_encoder.patch_embed.proj", d, 3, v["patch"], v["patch"])
    for i in range(v["depth"]):
        block = f"visual_encoder.blocks.{i}"
        pair(f"{block}.norm1", d)
        pair(f"{block}.attn.qkv", 3 * d, d)
        pair(f"{block}.attn.proj", d, d)
        pair(f"{block}.norm2", d)
        pair(f"{block}.mlp.fc1", v["mlp"], d)
        pair(f"{block}.mlp.fc2", d, v["mlp"])
    pair("visual_encoder.norm", d)
    found["text_encoder.embeddings.word_embeddings.weight"] = (config.vocab["size"], t["width"])
    found["text_encoder.embeddings.position_embeddings.weight"] = (t["positions"], t["width"])
    pair("text_encoder.embeddings.LayerNorm", t["width"])
    for i in range(t["depth"]):
        layer = f"text_encoder.encoder.layer.{i}"
        attention_of(f"{layer}.attention", t["width"])
        attention_of(f"{layer}.crossattention", d)
        pair(f"{layer}.intermediate.dense", t["ffn"], t["width"])
        pair(f"{layer}.output.dense", t["width"], t["ffn"])
        pair(f"{layer}.output.LayerNorm", t["width"])
    pair("vision_proj", config.embed_dim, d)
    pair("text_proj", config.embed_dim, t["width"])
    pair("itm_head", 2, t["width"])
    for i in range(t["depth"]):
        attention_of(f"text_decoder.bert.encoder.layer.{i}.attention", t["width"])
    found["text_decoder.cls.predictions.bias"] = (config.vocab["size"],)
    pair("text_decoder.cls.predictions.transform.dense", t["width"], t["width"])
    pair("text_decoder.cls.predictions.transform.LayerNorm", t["width"])
    return found


def is_averaged(name):
    """Whether a momentum encoder follows this parameter and somebody reads it there."""
    followed = name.startswith(("visual_encoder.", "text_encoder.", "vision_proj.", "text_proj."))
    return followed and ".crossattention." not in name


def without_key_biases(name, value):
    """A parameter whose biases of keys are zeroed. They shift all scores of a query alike, so their gradient is zero in exact
    arithmetic, and AdamW moves them by rounding noise over its own size: no two programs agree there."""
    value = value.detach().clone()
    if name.endswith(".key.bias"):
        value.zero_()
    elif name.endswith(".qkv.bias"):
        value[len(value) // 3 : 2 * len(value) // 3] = 0.0
    return value


class Everything:
    """Dropout and drop-path that keep everything."""

    def hidden(self, site, x):
        return x

    def probabilities(self, site, p):
        return p

    def branch(self, block, branch, x):
        return x


EVERYTHING = Everything()


def linear(w, name, x):
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def norm(w, name, x, eps):
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def heads_of(x, h):
    """b × n × d → b × h × n × d/h"""
    b, n, d = x.shape
    return x.reshape(b, n, h, d // h).transpose(1, 2)


def attention(q, k, v, bias, drop):
    """Queries, keys and values b × h × n × dim → b × n × d."""
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    kept = drop(torch.softmax(scores + bias, dim=-1))
    return (kept @ v).transpose(1, 2).flatten(2)


def vision(w, config, image, root="visual_encoder", drop=EVERYTHING):
    """The image tower: b × 3 × s × s → b × n × d, class token first."""
    spec = config.vision
    patches = F.conv2d(
        image, w[f"{root}.patch_embed.proj.weight"], w[f"{root}.patch_embed.proj.bias"], stride=spec["patch"]
    )
    x = patches.flatten(2).transpose(1, 2)
    x = torch.cat([w[f"{root}.cls_token"].expand(len(x), -1, -1), x], dim=1)
    x = x + w[f"{root}.pos_embed"]
    for i in range(spec["depth"]):
        block = f"{root}.blocks.{i}"
        qkv = linear(w, f"{block}.attn.qkv", norm(w, f"{block}.norm1", x, EPS_VISION))
        q, k, v = (heads_of(part, spec["heads"]) for part in qkv.chunk(3, dim=-1))
        y = linear(w, f"{block}.attn.proj", attention(q, k, v, 0.0, lambda p: p))
        x = x + drop.branch(i, 0, y)
        y = F.gelu(linear(w, f"{block}.mlp.fc1", norm(w, f"{block}.norm2", x, EPS_VISION)))
        x = x + drop.branch(i, 1, linear(w, f"{block}.mlp.fc2", y))
    return norm(w, f"{root}.norm", x, EPS_VISION)


def text(w, config, ids, mask, root="text_encoder", image=None, causal=False, drop=EVERYTHING):
    """The text towers: ids b × n → b × n × d. Without an image there is no cross-attention."""
    spec = config.text
    n = ids.shape[1]
    embeddings = f"{root}.embeddings"
    x = w[f"{embeddings}.word_embeddings.weight"][ids] + w[f"{embeddings}.position_embeddings.weight"][:n]
    x = drop.hidden(0, norm(w, f"{embeddings}.LayerNorm", x, EPS_TEXT))
    seen = mask[:, None, None, :].bool()
    if causal:
        seen = seen & torch.ones(n, n, dtype=torch.bool, device=ids.device).tril()
    bias = torch.where(seen, 0.0, HIDDEN).to(x.dtype)

    def block(name, site, x, keys, bias):
        q = heads_of(linear(w, f"{name}.self.query", x), spec["heads"])
        k = heads_of(linear(w, f"{name}.self.key", keys), spec["heads"])
        v = heads_of(linear(w, f"{name}.self.value", keys), spec["heads"])
        y = attention(q, k, v, bias, lambda p: drop.probabilities(site, p))
        y = drop.hidden(site + 1, linear(w, f"{name}.output.dense", y))
        return norm(w, f"{name}.output.LayerNorm", y + x, EPS_TEXT)

    for i in range(spec["depth"]):
        layer, site = f"{root}.encoder.layer.{i}", 8 * (i + 1)
        x = block(f"{layer}.attention", site + 1, x, x, bias)
        if image is not None:
            x = block(f"{layer}.crossattention", site + 3, x, image, 0.0)
        y = F.gelu(linear(w, f"{layer}.intermediate.dense", x))
        y = drop.hidden(site + 5, linear(w, f"{layer}.output.dense", y))
        x = norm(w, f"{layer}.output.LayerNorm", y + x, EPS_TEXT)
    return x


def lm_logits(w, x):
    """b × n × d → b × n × vocabulary"""
    head = "text_decoder.cls.predictions"
    x = F.gelu(linear(w, f"{head}.transform.dense", x))
    x = norm(w, f"{head}.transform.LayerNorm", x, EPS_TEXT)
    return F.linear(x, w[f"{head}.decoder.weight"], w[f"{head}.bias"])


def feature(w, name, x):
    """First tokens of b × n × d → unit vectors, b × e."""
    return F.normalize(linear(w, name, x[:, 0]), dim=-1)


def with_first(ids, first):
    ids = ids.clone()
    ids[:, 0] = first
    return ids


@dataclass
class Drops:
    """What is dropped in each pass of a step."""

    student: Everything = field(default=EVERYTHING)
    teacher: Everything = field(default=EVERYTHING)
    multimodal: object = field(default=lambda first: EVERYTHING)  # by the number of the first sequence


@dataclass
class Batch:
    """A step's samples, and what the schedules say."""

    image: torch.Tensor
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    image_negatives: torch.Tensor
    text_negatives: torch.Tensor
    alpha: float
    lr: float
    idx: torch.Tensor = None  # Which image a sample shows: the same number, the same image.


def momentum_features(w, config, batch, drop):
    """Unit features by the momentum encoders, b × e each. They are in training mode, as in the reference."""
    with torch.no_grad():
        image = vision(w, config, batch.image, "visual_encoder_m", drop)
        words = text(w, config, batch.input_ids, batch.attention_mask, "text_encoder_m", drop=drop)
        return feature(w, "vision_proj_m", image), feature(w, "text_proj_m", words)


def contrastive(temp, student, teacher, queues, alpha, own=None):
    """The contrastive loss and its logits, both ways, b × (b + q): the batch's own keys come first, then the queue. `own` are
    the targets without a teacher; by default each pair matches itself alone."""
    (image, words), (image_m, words_m) = student, teacher
    image_keys = torch.cat([image_m.T, queues["image_queue"]], dim=1)
    text_keys = torch.cat([words_m.T, queues["text_queue"]], dim=1)
    losses, logits = [], []
    for query, query_m, keys in [(image, image_m, text_keys), (words, words_m, image_keys)]:
        with torch.no_grad():
            if own is None:
                own = query.new_zeros(len(query), keys.shape[1]).fill_diagonal_(1.0)
            targets = alpha * torch.softmax(query_m @ keys / temp, dim=1) + (1 - alpha) * own
        logits.append(query @ keys / temp)
        losses.append(-(targets * F.log_softmax(logits[-1], dim=1)).sum(dim=1).mean())
    return (losses[0] + losses[1]) / 2, logits


def negative_weights(logits):
    """What negatives are drawn with: b × (b + q) → b × b, nothing for a sample itself."""
    b = len(logits)
    return (torch.softmax(logits[:, :b], dim=1) + FLOOR).fill_diagonal_(0.0)


def matching(w, config, batch, image_embeds, rows, drop):
    """Matching loss and logits of some rows, 3b × 2: pairs, then texts with foreign images, then foreign texts with images."""
    b = len(rows)
    ids = with_first(batch.input_ids, config.vocab["enc"])
    texts = torch.cat([rows, rows, batch.text_negatives[rows]])
    images = torch.cat([rows, batch.image_negatives[rows], rows])
    x = text(w, config, ids[texts], batch.attention_mask[texts], image=image_embeds[images], drop=drop)
    logits = linear(w, "itm_head", x[:, 0])
    labels = torch.cat([torch.ones(b, dtype=torch.long), torch.zeros(2 * b, dtype=torch.long)])
    return F.cross_entropy(logits, labels), logits


def modelling(w, config, batch, image_embeds, drop):
    """Language-modelling loss and logits, b × n × vocabulary: each token is predicted from those before it, but for those of
    the prompt."""
    ids, mask = with_first(batch.input_ids, config.vocab["dec"]), batch.attention_mask
    x = text(w, config, ids, mask, "text_decoder.bert", image_embeds, causal=True, drop=drop)
    logits = lm_logits(w, x)
    targets = ids.masked_fill(mask == 0, IGNORED)
    targets[:, : 1 + config.prompt_tokens] = IGNORED
    loss = F.cross_entropy(
        logits[:, :-1].flatten(0, 1),
        targets[:, 1:].flatten(),
        ignore_index=IGNORED,
        label_smoothing=config.label_smoothing,
    )
    return loss, logits


def forward(w, config, batch, queues, drops=Drops(), draw=None):
    """Everything a step computes before its backward pass. `draw(logits)` chooses the negatives that `batch` lacks."""
    image_m, text_m = momentum_features(w, config, batch, drops.teacher)
    image_embeds = vision(w, config, batch.image, drop=drops.student)
    text_states = text(w, config, batch.input_ids, batch.attention_mask, drop=drops.student)
    features = feature(w, "vision_proj", image_embeds), feature(w, "text_proj", text_states)
    itc, logits = contrastive(w["temp"], features, (image_m, text_m), queues, batch.alpha)
    if draw is not None:
        image_negatives, text_negatives = draw([l.detach() for l in logits])
        batch = replace(batch, image_negatives=image_negatives, text_negatives=text_negatives)
    b = len(image_embeds)
    itm, itm_logits = matching(w, config, batch, image_embeds, torch.arange(b), drops.multimodal(0))
    lm, lm_out = modelling(w, config, batch, image_embeds, drops.multimodal(3 * b))
    return {
        "losses": {"itc": itc, "itm": itm, "lm": lm},
        "image_embeds": image_embeds,
        "text_first": text_states[:, 0],
        "image_feat": features[0],
        "text_feat": features[1],
        "image_feat_m": image_m,
        "text_feat_m": text_m,
        "i2t_logits": logits[0],
        "t2i_logits": logits[1],
        "itm_logits": itm_logits,
        "lm_logits": lm_out[batch.attention_mask.bool()],
    }


class Trainer:
    """A model in training: parameters with their optimiser, momentum encoders and queues."""

    POINTER = "queue_ptr"

    def __init__(self, config, state, dtype):
        self.config = config
        state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
        self.params = {name: state[name].clone().requires_grad_() for name in shapes(config) if name in state}
        self.momentum = {name: state[name].clone() for name in state if name.split(".")[0].endswith("_m")}
        self.queues = {name: state[name].clone() for name in QUEUES if name in state}
        self.pointer = int(state.get(self.POINTER, 0))
        self.weights = Weights({**self.params, **self.momentum})
        self.optimiser = torch.optim.AdamW(self.params.values(), weight_decay=config.weight_decay)

    def begin(self):
        """What the reference does before a forward pass: clamp of the temperature, momentum average."""
        with torch.no_grad():
            self.params["temp"].clamp_(*self.config.temperature)
            m = self.config.momentum
            for name in filter(is_averaged, self.params):
                self.momentum[momentum_name(name)].mul_(m).add_(self.params[name], alpha=1 - m)

    def losses(self, batch, drops=Drops(), draw=None):
        """Forward pass; the features of the batch go into the queues after the contrastive loss."""
        found = forward(self.weights, self.config, batch, self.queues, drops, draw)
        self.enqueue(found["image_feat_m"], found["text_feat_m"])
        return found

    def enqueue(self, image_m, text_m):
        """Puts features where the pointer is, and moves it; returns the columns."""
        at = slice(self.pointer, self.pointer + len(image_m))
        self.queues["image_queue"][:, at] = image_m.T
        self.queues["text_queue"][:, at] = text_m.T
        self.pointer = at.stop % self.config.queue
        return at

    def step(self, batch):
        """One whole step; returns the forward pass, and gradients of what is trained."""
        self.optimiser.zero_grad()
        self.optimiser.param_groups[0]["lr"] = batch.lr
        self.begin()
        found = self.losses(batch)
        sum(found["losses"].values()).backward()
        gradients = {name: p.grad.clone() for name, p in self.params.items() if p.grad is not None}
        self.optimiser.step()
        return found, gradients
