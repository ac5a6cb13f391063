"""Compares the towers of `blip.py` with those of `transformers`, in fp64: two implementations that share no line.

`transformers` has BLIP's image tower, its text encoder with and without an image, and its decoder with the language-modelling
head. Its defaults differ from the model (twelve heads, ε of the image tower's norms), so both are given.
"""

import torch
from transformers import BlipTextConfig, BlipVisionConfig
from transformers.models.blip.modeling_blip import BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel, BlipTextModel

import blip
from make_goldens import SMALL, seeded_batch, seeded_state
from blip import Config, Weights

NAMES = [
    ("visual_encoder.cls_token", "embeddings.class_embedding"),
    ("visual_encoder.pos_embed", "embeddings.position_embedding"),
    ("visual_encoder.patch_embed.proj", "embeddings.patch_embedding"),
    ("visual_encoder.blocks", "encoder.layers"),
    ("visual_encoder.norm", "post_layernorm"),
    (".norm1", ".layer_norm1"),
    (".norm2", ".layer_norm2"),
    (".attn.qkv", ".self_attn.qkv"),
    (".attn.proj", ".self_attn.projection"),
]


def vision_model(config, w):
    v = config.vision
    model = BlipVisionModel(
        BlipVisionConfig(
            hidden_size=v["width"], intermediate_size=v["mlp"], num_hidden_layers=v["depth"],
            num_attention_heads=v["heads"], image_size=v["image_size"], patch_size=v["patch"], layer_norm_eps=1e-6,
        )
    ).double().eval()
    found = {}
    for name in filter(lambda name: name.startswith("visual_encoder."), blip.shapes(config)):
        theirs = name
        for ours, other in NAMES:
            theirs = theirs.replace(ours, other)
        found[theirs] = w[name]
    model.load_state_dict(found)
    return model


def text_model(config, w, kind, root):
    t = config.text
    settings = BlipTextConfig(
        vocab_size=config.vocab["size"], hidden_size=t["width"], encoder_hidden_size=config.vision["width"],
        intermediate_size=t["ffn"], num_hidden_layers=t["depth"], num_attention_heads=t["heads"],
        max_position_embeddings=t["positions"], layer_norm_eps=1e-12, is_decoder=True, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    more = {"add_pooling_layer": False} if kind is BlipTextModel else {}
    model = kind(settings, **more).double().eval()
    found = {name: w[root + name] for name in model.state_dict()}
    model.load_state_dict(found)
    return model


def same(name, ours, theirs):
    error = ((ours - theirs).norm() / theirs.norm()).item()
    assert error < 1e-12, f"{name}: {error}"
    print(f"{name}: {error:.1e}")


@torch.no_grad()
def main():
    config = Config(**SMALL)
    w = Weights({name: value.double() for name, value in seeded_state(config, 1, 17, 16).items()})
    batch = seeded_batch("batch.0", config, [[2, 9, 10, 3], [2, 11, 12, 9, 13, 14, 3], [2, 40, 3]], ([0], [0]), 0.3)
    image, ids, mask = batch.image.double(), batch.input_ids, batch.attention_mask
    kept = mask.bool()

    ours = blip.vision(w, config, image)
    same("image tower", ours, vision_model(config, w)(image).last_hidden_state)

    encoder = text_model(config, w, BlipTextModel, "text_encoder.")
    theirs = encoder(ids, attention_mask=mask, is_decoder=False).last_hidden_state
    same("text encoder", blip.text(w, config, ids, mask)[kept], theirs[kept])
    grounded = encoder(ids, attention_mask=mask, encoder_hidden_states=ours, is_decoder=False).last_hidden_state
    same("image-grounded encoder", blip.text(w, config, ids, mask, image=ours)[kept], grounded[kept])

    decoder = text_model(config, w, BlipTextLMHeadModel, "text_decoder.")
    theirs = decoder(ids, attention_mask=mask, encoder_hidden_states=ours, is_decoder=True).logits
    states = blip.text(w, config, ids, mask, "text_decoder.bert", ours, causal=True)
    same("decoder", blip.lm_logits(w, states)[kept], theirs[kept])


if __name__ == "__main__":
    main()
