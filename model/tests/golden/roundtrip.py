"""Loads what Medley exported with PyTorch and transformers, and compares what both compute.

The test `what_is_written_is_read_back_to_the_last_bit` writes the exports and Medley's own outputs where MEDLEY_ROUNDTRIP
points. Logits must agree to 1e-5, captions by greedy and by beam search token by token. Run by `scripts/roundtrip.sh`.

usage: roundtrip.py [DIRECTORY]; without one, the whole of `scripts/roundtrip.sh` is run with this interpreter
"""

import json
import os
import sys
import warnings

import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import BlipForConditionalGeneration, BlipForImageTextRetrieval, BlipProcessor, logging

logging.set_verbosity_error()
warnings.filterwarnings("ignore")


def near(what, found, expected):
    expected = torch.tensor(expected).reshape(found.shape)
    error = ((found - expected).abs().max() / expected.abs().max().clamp(min=1)).item()
    print(f"{what}: largest difference {error:.1e}")
    assert error <= 1e-5, what


def load(model, directory):
    loaded, info = model.from_pretrained(directory, output_loading_info=True)
    assert not any(info.values()), info
    return loaded.eval()


def first(token, text):
    return torch.tensor([[token, *text[1:]]])


def check_captions(captioner, pixels, case):
    """The same captions for all images. What begins them is overwritten by `[DEC]`, and `[SEP]` after the prompt is cut off."""
    search, config = case["search"], captioner.config.text_config
    prompt = [config.bos_token_id, *search["prompt"], config.sep_token_id]
    prompt = torch.tensor([prompt]).expand(len(pixels), -1).clone()
    made = captioner.generate(
        pixels, input_ids=prompt, attention_mask=torch.ones_like(prompt), do_sample=False, num_beams=search["beams"],
        num_return_sequences=search["count"], min_length=search["min_tokens"], max_length=search["max_tokens"],
    )
    start, sep = len(search["prompt"]) + 1, config.sep_token_id
    tokens = [row[start:] for row in made.tolist()]
    tokens = [row[: row.index(sep)] if sep in row else row for row in tokens]
    print(f"{len(tokens)} captions, {search}: of {sorted(map(len, tokens))} tokens")
    assert tokens == case["tokens"], (tokens, case["tokens"])
    return tokens


@torch.no_grad()
def main(directory):
    at = lambda name: os.path.join(directory, name)
    with open(at("outputs.json")) as file:
        ours = json.load(file)
    processor = BlipProcessor.from_pretrained(at("hf-caption"))
    tokenizer = processor.tokenizer
    assert tokenizer("A red rings, below")["input_ids"] == [2, 4, 5, 6, 11, 17, 7, 3]
    assert tokenizer.decode([18, 4, 5, 6, 3], skip_special_tokens=True) == "a red ring"
    dec, enc, cls = (tokenizer.convert_tokens_to_ids(token) for token in ("[DEC]", "[ENC]", "[CLS]"))
    captioner = load(BlipForConditionalGeneration, at("hf-caption"))
    side = captioner.config.vision_config.image_size
    made = processor(Image.new("RGB", (20, 30), (255, 0, 0)), return_tensors="pt").pixel_values
    assert made.shape == (1, 3, side, side) and abs(made[0, 0, 0, 0].item() - (1 - 0.48145466) / 0.26862954) < 1e-5
    pixels = torch.tensor(ours["pixels"]).reshape(-1, 3, side, side)
    n, text = len(pixels), ours["text"]
    mask = torch.ones(n, len(text))

    logits = captioner(pixels, first(dec, text).expand(n, -1), attention_mask=mask).logits
    near("caption logits", logits, ours["caption_logits"])
    captioned = torch.tensor(ours["captioned"]).reshape(-1, 3, side, side)
    captions = [tuple(tokens) for case in ours["captions"] for tokens in check_captions(captioner, captioned, case)]
    assert len(set(map(len, captions))) > 5 and len(set(captions)) > len(captions) / 2, "hardly a check"

    matcher = load(BlipForImageTextRetrieval, at("hf-retrieval"))
    near("match logits", matcher(first(enc, text).expand(n, -1), pixels, attention_mask=mask).itm_score, ours["match_logits"])
    cosines = matcher(first(cls, text), pixels, attention_mask=mask[:1], use_itm_head=False).itm_score
    near("cosines", cosines, ours["cosines"])

    released = torch.load(at("pth/model.pth"), map_location="cpu", weights_only=True)["model"]
    words = released["text_encoder.embeddings.word_embeddings.weight"]
    tied = released["text_decoder.cls.predictions.decoder.weight"]
    assert tied.data_ptr() == words.data_ptr(), "tied names share their storage"
    state = {k.replace("visual_encoder.", "vision_model."): v for k, v in matcher.state_dict().items()}
    assert torch.equal(released["itm_head.weight"], state["itm_head.weight"])
    plain = load_file(at("safetensors/model.safetensors"))
    for name, tensor in plain.items():
        assert torch.equal(tensor, released[name]), name
    assert "text_encoder_m.encoder.layer.0.crossattention.self.key.weight" in released
    assert released["queue_ptr"].dtype == torch.int64 and released["image_queue"].shape == (6, 8)
    print(f"released checkpoint: {len(released)} names, {len(plain)} tensors")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../scripts/roundtrip.sh")
        os.execve(script, [script], {**os.environ, "PYTHON": sys.executable})
    main(sys.argv[1])
