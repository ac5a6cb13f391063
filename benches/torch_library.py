"""The library's side of `run.sh`: captions and match scores by transformers' BLIP, the role `transformers` of `torch_side.py`."""

import functools

import torch


class Transformers:
    """The captioner and the filter of the library, each made when it is first needed."""

    def __init__(self, description, batch_image, dtype):
        import transformers

        self.library, self.dtype = transformers, dtype
        c, vocab = description["config"], description["config"]["vocab"]
        vision, text = c["vision"], c["text"]
        self.description, self.image, self.vocab = description, batch_image.to(dtype), vocab
        self.config = transformers.BlipConfig(
            text_config=dict(
                vocab_size=vocab["size"], hidden_size=text["width"], encoder_hidden_size=vision["width"],
                intermediate_size=text["ffn"], num_hidden_layers=text["depth"], num_attention_heads=text["heads"],
                max_position_embeddings=text["positions"], projection_dim=c["embed_dim"], bos_token_id=vocab["dec"],
                eos_token_id=vocab["sep"], sep_token_id=vocab["sep"], pad_token_id=vocab["pad"],
            ),
            vision_config=dict(
                hidden_size=vision["width"], intermediate_size=vision["mlp"], num_hidden_layers=vision["depth"],
                num_attention_heads=vision["heads"], image_size=vision["image_size"], patch_size=vision["patch"],
            ),
            image_text_hidden_size=c["embed_dim"], projection_dim=c["embed_dim"],
        )

    @functools.cached_property
    def captioner(self):
        return self.library.BlipForConditionalGeneration(self.config).to(self.dtype).eval()

    @functools.cached_property
    def filter(self):
        return self.library.BlipForImageTextRetrieval(self.config).to(self.dtype).eval()

    @torch.inference_mode()
    def caption(self, **choice):
        new = self.description["new_tokens"]
        start = torch.full((len(self.image), 1), self.vocab["dec"])
        # The library drops the last token of its prompt, for which its own tokeniser adds an end.
        start = torch.cat([start, torch.full_like(start, self.vocab["sep"])], dim=1)
        out = self.captioner.generate(self.image, input_ids=start, min_new_tokens=new, max_new_tokens=new, **choice)
        return [out.shape[1] - 1] * len(out)

    @torch.inference_mode()
    def match(self, once):
        """Pairs as the library's own `forward` takes them, or with each image looked at `once`; texts are padded to the longest."""
        texts, each, b = self.description["texts"], self.description["texts_an_image"], len(self.image)
        texts = [texts[pair % b] for pair in range(b * each)]
        n = max(map(len, texts))
        ids = torch.tensor([text + [self.vocab["pad"]] * (n - len(text)) for text in texts])
        mask = torch.tensor([[1] * len(text) + [0] * (n - len(text)) for text in texts])
        if not once:
            pixels = self.image.repeat_interleave(each, 0)
            return len(self.filter(ids, pixels, attention_mask=mask, use_itm_head=True).itm_score)
        images = self.filter.vision_model(self.image)[0].repeat_interleave(each, 0)
        states = self.filter.text_encoder(ids, attention_mask=mask, encoder_hidden_states=images)[0]
        return len(self.filter.itm_head(states[:, 0]))

    def run(self, command):
        return {
            "greedy": lambda: self.caption(do_sample=False),
            "nucleus": lambda: self.caption(do_sample=True, top_p=0.9, top_k=0),
            "pairs": lambda: self.match(once=False),
            "match": lambda: self.match(once=True),
        }[command]()
