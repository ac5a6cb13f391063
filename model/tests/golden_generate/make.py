"""Writes captions of a tiny random BLIP by transformers, greedy and by beam search.

    python make.py EMBEDS [DIRECTORY]          with transformers 4.46: writes later.json, and the images' embeddings to EMBEDS
    python make.py --old EMBEDS [DIRECTORY]    with 4.15, the reference's version: writes reference.json

The files are written to DIRECTORY, by default beside this script, where they are checked in.

Version 4.15 has no BLIP; its BERT with cross-attention is the decoder that the reference's is made from, and is given the
embeddings. Weights are exact fractions computed from (name, index), the same as in the test.
"""

import json
import pathlib
import sys

OLD = sys.argv[1] == "--old"
PATHS = sys.argv[1 + OLD :]
if OLD:
    # 4.15 checks the version of a package that is not needed here.
    sys.modules["tokenizers"] = None

import numpy as np  # noqa: E402
import torch  # noqa: E402

OUT = pathlib.Path(PATHS[1]) if len(PATHS) > 1 else pathlib.Path(__file__).parent
MASK = 2**64 - 1
PAD, SEP, DEC = 0, 3, 4
WIDTH, DEPTH, HEADS, VOCAB, POSITIONS, SIDE, PATCH, IMAGES = 32, 2, 4, 40, 32, 16, 8, 3


def mix(x):
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def fraction(name, index):
    """A multiple of 1/1024 in [-1, 1)."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = (state ^ byte) * 0x100000001B3 & MASK
    return ((mix((state + index * 0x9E3779B97F4A7C15) & MASK) >> 53) - 1024) / 1024


def weight(name, shape):
    count = int(np.prod(shape))
    values = np.array([fraction(name, i) for i in range(count)], dtype=np.float64)
    if "norm" in name.lower() and name.endswith("weight"):
        values = 1 + values / 4
    elif name.endswith("bias"):
        values = values / 2
    else:
        values = values / 4 if "embeddings" not in name else values
    if name.endswith("predictions.bias"):
        values[SEP] += SEP_BIAS
    return torch.tensor(values.reshape(shape), dtype=torch.float32)


SEP_BIAS = 2.0


def fill(model, official):
    """Gives each parameter the values of its official name."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            name = official(name)
            parameter.copy_(weight(name, parameter.shape) if name else torch.zeros_like(parameter))


def text_name(name):
    """Encoder and decoder share all but self-attention: shared names are the encoder's."""
    name = name.removeprefix("text_decoder.").removeprefix("bert.")
    if name.startswith("cls.predictions.decoder"):
        return "text_encoder.embeddings.word_embeddings.weight"
    if name.startswith("cls."):
        return "text_decoder." + name
    if "token_type" in name:
        return None
    if ".attention." in name:
        return "text_decoder.bert." + name
    return "text_encoder." + name


def vision_name(name):
    renames = [
        ("vision_model.embeddings.class_embedding", "visual_encoder.cls_token"),
        ("vision_model.embeddings.position_embedding", "visual_encoder.pos_embed"),
        ("vision_model.embeddings.patch_embedding", "visual_encoder.patch_embed.proj"),
        ("vision_model.post_layernorm", "visual_encoder.norm"),
        ("vision_model.encoder.layers", "visual_encoder.blocks"),
        ("layer_norm", "norm"),
        ("self_attn.projection", "attn.proj"),
        ("self_attn", "attn"),
    ]
    for old, new in renames:
        name = name.replace(old, new)
    return name


def pixels():
    values = [[fraction(f"pixels.{i}", j) * 2 for j in range(3 * SIDE * SIDE)] for i in range(IMAGES)]
    return torch.tensor(values, dtype=torch.float32).reshape(IMAGES, 3, SIDE, SIDE)


def later(embeds_path):
    from transformers import BlipConfig, BlipForConditionalGeneration

    text = dict(
        vocab_size=VOCAB, hidden_size=WIDTH, encoder_hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=DEPTH,
        num_attention_heads=HEADS, max_position_embeddings=POSITIONS, hidden_act="gelu", layer_norm_eps=1e-12,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, bos_token_id=DEC, eos_token_id=2, pad_token_id=PAD,
        sep_token_id=SEP, is_decoder=True,
    )
    vision = dict(
        hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, image_size=SIDE,
        patch_size=PATCH, hidden_act="gelu", layer_norm_eps=1e-6,
    )
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision)).eval()
    fill(model, lambda name: text_name(name) if name.startswith("text_decoder") else vision_name(name))
    with torch.no_grad():
        np.save(embeds_path, model.vision_model(pixels()).last_hidden_state.numpy())

    def generate(prompt, **settings):
        ids = torch.tensor([[DEC, *prompt, SEP]] * IMAGES)
        return model.generate(pixel_values=pixels(), input_ids=ids, attention_mask=torch.ones_like(ids), **settings)

    return generate


def reference(embeds_path):
    from transformers.models.bert.configuration_bert import BertConfig
    from transformers.models.bert.modeling_bert import BertLMHeadModel

    class Decoder(BertLMHeadModel):
        def prepare_inputs_for_generation(self, input_ids, past=None, **kwargs):
            inputs = super().prepare_inputs_for_generation(input_ids, past=past)
            return {**inputs, "encoder_hidden_states": kwargs["encoder_hidden_states"]}

    config = BertConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS,
        max_position_embeddings=POSITIONS, layer_norm_eps=1e-12, is_decoder=True, add_cross_attention=True, pad_token_id=PAD,
    )
    model = Decoder(config).eval()
    fill(model, text_name)
    embeds = torch.tensor(np.load(embeds_path))

    def generate(prompt, num_beams=1, **settings):
        ids = torch.tensor([[DEC, *prompt]] * IMAGES)
        states = embeds.repeat_interleave(num_beams, dim=0)
        return model.generate(
            input_ids=ids, encoder_hidden_states=states, num_beams=num_beams, eos_token_id=SEP, pad_token_id=PAD, **settings
        )

    return generate


def cases():
    for prompt in ([], [9, 17]):
        for beams, count in ((1, 1), (3, 1), (3, 3), (5, 2)):
            for penalty in (1.0, 1.3):
                for length_penalty in (1.0, 2.0) if beams > 1 else (1.0,):
                    for shortest in (2, 7):
                        yield dict(prompt=prompt, beams=beams, count=count, repetition_penalty=penalty,
                                   length_penalty=length_penalty, min_tokens=shortest, max_tokens=14)


def run(generate, case):
    settings = dict(num_beams=case["beams"], num_return_sequences=case["count"], do_sample=False,
                    repetition_penalty=case["repetition_penalty"], min_length=case["min_tokens"],
                    max_length=case["max_tokens"])
    if case["beams"] > 1:
        settings.update(length_penalty=case["length_penalty"], early_stopping=False)
    with torch.no_grad():
        rows = generate(case["prompt"], **settings).tolist()
    start = 1 + len(case["prompt"])
    rows = [row[start:] for row in rows]
    # A row without an end is as long as may be: nothing was filled up behind it.
    return {**case, "captions": [row[: row.index(SEP)] if SEP in row else row for row in rows]}


def main():
    generate = (reference if OLD else later)(PATHS[0])
    lines = [json.dumps(run(generate, case)) for case in cases()]
    name = "reference.json" if OLD else "later.json"
    (OUT / name).write_text("[\n" + ",\n".join(lines) + "\n]\n")
    lengths = sorted(len(c) for line in lines for c in json.loads(line)["captions"])
    print(len(lines), "cases; lengths", {n: lengths.count(n) for n in set(lengths)})


main()
