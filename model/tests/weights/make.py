"""Makes the files of weights that the tests read, and what PyTorch and transformers compute with them.

One set of random weights of a very small BLIP is written in every layout that Medley reads: the released code's checkpoint,
the three models of transformers, image towers alone under three kinds of names, and BERT. `expected.safetensors` holds inputs
and outputs. The files are checked in; `scripts/roundtrip.sh` makes them anew and compares.

usage: make.py DIRECTORY [CHECKED_IN]
"""

import os
import sys
from collections import OrderedDict

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertModel,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    BlipForQuestionAnswering,
    ViTConfig,
    ViTModel,
)

PATCH, SIDE, IMAGE_WIDTH, IMAGE_HEADS, IMAGE_MLP, BLOCKS = 4, 8, 8, 2, 16, 2
TEXT_WIDTH, TEXT_HEADS, FFN, LAYERS, POSITIONS = 12, 3, 24, 2, 16
WORDS, DEC, ENC, CLS, SEP, PAD = 20, 18, 19, 2, 3, 0
EMBED, QUEUE = 6, 8
TOKENS = 1 + (SIDE // PATCH) ** 2

generator = torch.Generator().manual_seed(20)


def random(*shape, scale=0.3):
    return torch.randn(*shape, generator=generator) * scale


def linear(state, name, outer, inner):
    state[f"{name}.weight"] = random(outer, inner)
    state[f"{name}.bias"] = random(outer)


def norm(state, name, width):
    state[f"{name}.weight"] = 1 + random(width)
    state[f"{name}.bias"] = random(width)


def image_tower(state, root):
    state[f"{root}.cls_token"] = random(1, 1, IMAGE_WIDTH)
    state[f"{root}.pos_embed"] = random(1, TOKENS, IMAGE_WIDTH)
    state[f"{root}.patch_embed.proj.weight"] = random(IMAGE_WIDTH, 3, PATCH, PATCH)
    state[f"{root}.patch_embed.proj.bias"] = random(IMAGE_WIDTH)
    for i in range(BLOCKS):
        block = f"{root}.blocks.{i}"
        norm(state, f"{block}.norm1", IMAGE_WIDTH)
        linear(state, f"{block}.attn.qkv", 3 * IMAGE_WIDTH, IMAGE_WIDTH)
        linear(state, f"{block}.attn.proj", IMAGE_WIDTH, IMAGE_WIDTH)
        norm(state, f"{block}.norm2", IMAGE_WIDTH)
        linear(state, f"{block}.mlp.fc1", IMAGE_MLP, IMAGE_WIDTH)
        linear(state, f"{block}.mlp.fc2", IMAGE_WIDTH, IMAGE_MLP)
    norm(state, f"{root}.norm", IMAGE_WIDTH)


def attention(state, name, keys_width):
    linear(state, f"{name}.self.query", TEXT_WIDTH, TEXT_WIDTH)
    linear(state, f"{name}.self.key", TEXT_WIDTH, keys_width)
    linear(state, f"{name}.self.value", TEXT_WIDTH, keys_width)
    linear(state, f"{name}.output.dense", TEXT_WIDTH, TEXT_WIDTH)
    norm(state, f"{name}.output.LayerNorm", TEXT_WIDTH)


def text_tower(state, root):
    state[f"{root}.embeddings.position_ids"] = torch.arange(POSITIONS).expand((1, -1))
    state[f"{root}.embeddings.word_embeddings.weight"] = random(WORDS, TEXT_WIDTH, scale=1)
    state[f"{root}.embeddings.position_embeddings.weight"] = random(POSITIONS, TEXT_WIDTH)
    norm(state, f"{root}.embeddings.LayerNorm", TEXT_WIDTH)
    for i in range(LAYERS):
        layer = f"{root}.encoder.layer.{i}"
        attention(state, f"{layer}.attention", TEXT_WIDTH)
        attention(state, f"{layer}.crossattention", IMAGE_WIDTH)
        linear(state, f"{layer}.intermediate.dense", FFN, TEXT_WIDTH)
        linear(state, f"{layer}.output.dense", TEXT_WIDTH, FFN)
        norm(state, f"{layer}.output.LayerNorm", TEXT_WIDTH)


def released():
    """The model part of a released pre-training checkpoint; the temperature waits for its clamp."""
    state = OrderedDict(temp=torch.tensor(0.6))
    for momentum in ("", "_m"):
        image_tower(state, f"visual_encoder{momentum}")
        text_tower(state, f"text_encoder{momentum}")
        linear(state, f"vision_proj{momentum}", EMBED, IMAGE_WIDTH)
        linear(state, f"text_proj{momentum}", EMBED, TEXT_WIDTH)
    linear(state, "itm_head", 2, TEXT_WIDTH)
    for name in [name for name in state if name.startswith("text_encoder.")]:
        state[name.replace("text_encoder.", "text_decoder.bert.")] = state[name]
    for i in range(LAYERS):
        attention(state, f"text_decoder.bert.encoder.layer.{i}.attention", TEXT_WIDTH)
    head = "text_decoder.cls.predictions"
    state[f"{head}.bias"] = random(WORDS)
    linear(state, f"{head}.transform.dense", TEXT_WIDTH, TEXT_WIDTH)
    norm(state, f"{head}.transform.LayerNorm", TEXT_WIDTH)
    state[f"{head}.decoder.weight"] = state["text_decoder.bert.embeddings.word_embeddings.weight"]
    state[f"{head}.decoder.bias"] = state[f"{head}.bias"]
    for queue in ("image_queue", "text_queue"):
        state[queue] = torch.nn.functional.normalize(random(EMBED, QUEUE), dim=0)
    state["queue_ptr"] = torch.tensor([5])
    return state


# The image tower's names, transformers' first.
TOWER = [
    ("embeddings.class_embedding", "cls_token"),
    ("embeddings.position_embedding", "pos_embed"),
    ("embeddings.patch_embedding", "patch_embed.proj"),
    ("post_layernorm", "norm"),
]
BLOCK = [
    ("layer_norm1", "norm1"),
    ("layer_norm2", "norm2"),
    ("self_attn.qkv", "attn.qkv"),
    ("self_attn.projection", "attn.proj"),
    ("mlp.fc1", "mlp.fc1"),
    ("mlp.fc2", "mlp.fc2"),
]


def with_hf_names(state):
    renamed = OrderedDict()
    for name, tensor in state.items():
        root, _, rest = name.partition(".")
        if root == "visual_encoder":
            pairs, prefix = TOWER, "vision_model."
            if rest.startswith("blocks."):
                _, number, rest = rest.split(".", 2)
                pairs, prefix = BLOCK, f"vision_model.encoder.layers.{number}."
            hf = next(hf for hf, ours in pairs if rest == ours or rest.startswith(ours + "."))
            ours = dict(pairs)[hf]
            name = prefix + hf + rest[len(ours):]
        renamed[name] = tensor
    return renamed


def blip_config():
    return BlipConfig(
        text_config=dict(
            vocab_size=WORDS, hidden_size=TEXT_WIDTH, encoder_hidden_size=IMAGE_WIDTH, intermediate_size=FFN,
            projection_dim=EMBED, num_hidden_layers=LAYERS, num_attention_heads=TEXT_HEADS,
            max_position_embeddings=POSITIONS, layer_norm_eps=1e-12, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0, bos_token_id=DEC, eos_token_id=SEP, sep_token_id=SEP, pad_token_id=PAD,
        ),
        vision_config=dict(
            hidden_size=IMAGE_WIDTH, intermediate_size=IMAGE_MLP, projection_dim=EMBED, num_hidden_layers=BLOCKS,
            num_attention_heads=IMAGE_HEADS, image_size=SIDE, patch_size=PATCH, layer_norm_eps=1e-6,
        ),
        image_text_hidden_size=EMBED,
    )


def fill(model, state):
    """Loads `state`, which must give every parameter of the model."""
    _, unexpected = model.load_state_dict({k: v for k, v in state.items() if k in model.state_dict()}, strict=False)
    missing = [name for name in model.state_dict() if name not in state]
    assert not missing and not unexpected, (missing, unexpected)
    return model.eval()


def thirds(state, name):
    return dict(zip(("query", "key", "value"), state[name].chunk(3)))


def hf_vit(tower):
    """An image tower as transformers' ViT names it."""
    state = {
        "embeddings.cls_token": tower["cls_token"],
        "embeddings.position_embeddings": tower["pos_embed"],
        "layernorm.weight": tower["norm.weight"],
        "layernorm.bias": tower["norm.bias"],
    }
    for end in ("weight", "bias"):
        state[f"embeddings.patch_embeddings.projection.{end}"] = tower[f"patch_embed.proj.{end}"]
        for i in range(BLOCKS):
            block, layer = f"blocks.{i}", f"encoder.layer.{i}"
            for which, third in thirds(tower, f"{block}.attn.qkv.{end}").items():
                state[f"{layer}.attention.attention.{which}.{end}"] = third.clone()
            for hf, ours in (
                ("attention.output.dense", "attn.proj"), ("layernorm_before", "norm1"), ("layernorm_after", "norm2"),
                ("intermediate.dense", "mlp.fc1"), ("output.dense", "mlp.fc2"),
            ):
                state[f"{layer}.{hf}.{end}"] = tower[f"{block}.{ours}.{end}"]
    return state


def jax_vit(tower):
    """An image tower as the JAX originals name it: inputs before outputs, heads apart."""
    head = IMAGE_WIDTH // IMAGE_HEADS
    arrays = {
        "cls": tower["cls_token"],
        "Transformer/posembed_input/pos_embedding": tower["pos_embed"],
        "embedding/kernel": tower["patch_embed.proj.weight"].permute(2, 3, 1, 0),
        "embedding/bias": tower["patch_embed.proj.bias"],
        "Transformer/encoder_norm/scale": tower["norm.weight"],
        "Transformer/encoder_norm/bias": tower["norm.bias"],
        "head/kernel": torch.zeros(IMAGE_WIDTH, 3),
    }
    for i in range(BLOCKS):
        block, out = f"blocks.{i}", f"Transformer/encoderblock_{i}"
        attn = f"{out}/MultiHeadDotProductAttention_1"
        for which, third in thirds(tower, f"{block}.attn.qkv.weight").items():
            arrays[f"{attn}/{which}/kernel"] = third.T.reshape(IMAGE_WIDTH, IMAGE_HEADS, head)
        for which, third in thirds(tower, f"{block}.attn.qkv.bias").items():
            arrays[f"{attn}/{which}/bias"] = third.reshape(IMAGE_HEADS, head)
        arrays[f"{attn}/out/kernel"] = tower[f"{block}.attn.proj.weight"].T.reshape(IMAGE_HEADS, head, IMAGE_WIDTH)
        arrays[f"{attn}/out/bias"] = tower[f"{block}.attn.proj.bias"]
        for theirs, ours in (("LayerNorm_0", "norm1"), ("LayerNorm_2", "norm2")):
            arrays[f"{out}/{theirs}/scale"] = tower[f"{block}.{ours}.weight"]
            arrays[f"{out}/{theirs}/bias"] = tower[f"{block}.{ours}.bias"]
        for theirs, ours in (("Dense_0", "fc1"), ("Dense_1", "fc2")):
            arrays[f"{out}/MlpBlock_3/{theirs}/kernel"] = tower[f"{block}.mlp.{ours}.weight"].T
            arrays[f"{out}/MlpBlock_3/{theirs}/bias"] = tower[f"{block}.mlp.{ours}.bias"]
    return {name: np.ascontiguousarray(array.numpy()) for name, array in arrays.items()}


def bert(state):
    """BERT without the two added tokens, with token types and old names of layer norms, from the text encoder."""
    encoder = {k.removeprefix("text_encoder."): v for k, v in state.items() if k.startswith("text_encoder.")}
    found = {k: v for k, v in encoder.items() if "crossattention" not in k and not k.endswith("position_ids")}
    found["embeddings.word_embeddings.weight"] = found["embeddings.word_embeddings.weight"][: WORDS - 2].clone()
    found["embeddings.token_type_embeddings.weight"] = torch.zeros(2, TEXT_WIDTH)
    old = lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    named = {f"bert.{old(name)}": tensor for name, tensor in found.items()}
    head = "cls.predictions"
    named[f"{head}.bias"] = state[f"text_decoder.{head}.bias"][: WORDS - 2].clone()
    for part in ("dense", "LayerNorm"):
        for end in ("weight", "bias"):
            named[old(f"{head}.transform.{part}.{end}")] = state[f"text_decoder.{head}.transform.{part}.{end}"]
    named["cls.seq_relationship.weight"] = torch.zeros(2, TEXT_WIDTH)
    config = BertConfig(
        vocab_size=WORDS - 2, hidden_size=TEXT_WIDTH, num_hidden_layers=LAYERS, num_attention_heads=TEXT_HEADS,
        intermediate_size=FFN, max_position_embeddings=POSITIONS, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return named, fill(BertModel(config, add_pooling_layer=False), found)


@torch.no_grad()
def main(out):
    os.makedirs(out, exist_ok=True)
    torch.manual_seed(0)
    at = lambda name: os.path.join(out, name)
    state = released()
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 3e-4, "params": [0]}]}
    torch.save({"model": state, "optimizer": optimizer, "config": {"image_size": SIDE, "vit": "base"}, "epoch": 3},
               at("released.pth"))
    expected = {}
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=generator)
    caption = torch.tensor([[DEC, 5, 9, 7, 11, SEP]])
    matched = torch.tensor([[ENC, 5, 9, 7, 11, SEP]])
    unimodal = torch.tensor([[CLS, 5, 9, 7, 11, SEP]])
    expected.update(pixels=pixels)
    hf = with_hf_names(state)

    captioner = fill(BlipForConditionalGeneration(blip_config()), hf)
    captioner.save_pretrained(at("hf-caption"))
    captioner.save_pretrained(at("hf-shards"), max_shard_size=12_000)
    captioner.save_pretrained(at("hf-shards-bin"), max_shard_size=20_000, safe_serialization=False)
    expected["caption_logits"] = captioner(
        pixel_values=pixels, input_ids=caption.expand(2, -1), attention_mask=torch.ones(2, 6)
    ).logits

    matcher = fill(BlipForImageTextRetrieval(blip_config()), hf)
    matcher.save_pretrained(at("hf-retrieval"), safe_serialization=False)
    ones = torch.ones(2, 6)
    expected["match_logits"] = matcher(matched.expand(2, -1), pixels, attention_mask=ones).itm_score
    expected["cosines"] = matcher(unimodal, pixels, use_itm_head=False, attention_mask=ones[:1]).itm_score

    # A question answerer's decoder has nothing in common with its encoder.
    own = {k: random(*v.shape) if k.startswith("text_decoder.bert.") and v.is_floating_point() else v for k, v in hf.items()}
    own["text_decoder.cls.predictions.decoder.weight"] = own["text_decoder.bert.embeddings.word_embeddings.weight"]
    for name in own:
        # Its decoder reads the question's states, not the image's.
        if name.startswith("text_decoder.") and ".crossattention.self." in name and name.endswith(("key.weight", "value.weight")):
            own[name] = random(TEXT_WIDTH, TEXT_WIDTH)
    config = blip_config()
    answerer = BlipForQuestionAnswering(config)
    for i, layer in enumerate(answerer.text_decoder.bert.encoder.layer):
        layer.crossattention.self.key = torch.nn.Linear(TEXT_WIDTH, TEXT_WIDTH)
        layer.crossattention.self.value = torch.nn.Linear(TEXT_WIDTH, TEXT_WIDTH)
    fill(answerer, own).save_pretrained(at("hf-vqa"))
    answerer_self = "text_decoder.bert.encoder.layer.1.attention.self.query.weight"
    expected["answerer_self"] = own[answerer_self]

    tower = {k.removeprefix("visual_encoder."): v for k, v in state.items() if k.startswith("visual_encoder.")}
    with_head = {**tower, "head.weight": torch.zeros(3, IMAGE_WIDTH), "head.bias": torch.zeros(3)}
    torch.save({"model": with_head}, at("vit.pth"))
    torch.save({"model": with_head}, at("vit-old.pth"), _use_new_zipfile_serialization=False)
    save_file(hf_vit(tower), at("vit-hf.safetensors"), metadata={"format": "pt"})
    save_file({k: v.to(torch.bfloat16).contiguous() for k, v in with_head.items()}, at("vit-bf16.safetensors"))
    np.savez(at("vit.npz"), **jax_vit(tower))
    np.savez_compressed(at("vit-compressed.npz"), **jax_vit(tower))
    config = ViTConfig(
        hidden_size=IMAGE_WIDTH, num_hidden_layers=BLOCKS, num_attention_heads=IMAGE_HEADS, intermediate_size=IMAGE_MLP,
        image_size=SIDE, patch_size=PATCH, layer_norm_eps=1e-6, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    vit = fill(ViTModel(config, add_pooling_layer=False), hf_vit(tower))
    expected["image_states"] = vit(pixels).last_hidden_state
    grid = tower["pos_embed"][:, 1:].reshape(1, 2, 2, IMAGE_WIDTH).permute(0, 3, 1, 2)
    larger = torch.nn.functional.interpolate(grid, size=(3, 3), mode="bicubic", align_corners=False)
    larger = larger.permute(0, 2, 3, 1).reshape(1, 9, IMAGE_WIDTH)
    expected["larger_positions"] = torch.cat((tower["pos_embed"][:, :1], larger), dim=1)

    named, model = bert(state)
    save_file({k: v.contiguous() for k, v in named.items()}, at("bert.safetensors"), metadata={"format": "pt"})
    expected["bert_states"] = model(unimodal).last_hidden_state
    save_file({k: v.contiguous() for k, v in expected.items()}, at("expected.safetensors"))


def tensors(path):
    if path.endswith(".safetensors"):
        return load_file(path)
    if path.endswith(".npz"):
        return {name: torch.from_numpy(array) for name, array in np.load(path).items()}
    state = torch.load(path, map_location="cpu", weights_only=True)
    return state.get("model", state)


def compare(made, kept):
    """Weights are the same bits; what was computed with them differs by rounding at most."""
    files = [os.path.join(root, name) for root, _, names in os.walk(made) for name in names if not name.endswith(".json")]
    for path in files:
        twin = tensors(os.path.join(kept, os.path.relpath(path, made)))
        found = tensors(path)
        assert found.keys() == twin.keys(), path
        close = 1e-5 if path.endswith("expected.safetensors") else 0
        for name, tensor in found.items():
            assert torch.allclose(tensor, twin[name], rtol=0, atol=close), (path, name)
    print(f"{len(files)} files as checked in")


if __name__ == "__main__":
    main(sys.argv[1])
    if len(sys.argv) > 2:
        compare(sys.argv[1], sys.argv[2])
