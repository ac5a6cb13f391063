"""The objectives that CapFilt fine-tunes a captioner and a filter with, in plain PyTorch.

A batch is that of all lanes, which are the reference's ranks: the first lane's samples, then the second's. The loss is the
mean of the lanes' losses, as gradients are averaged over ranks.
"""

from dataclasses import replace

import torch

from blip import EVERYTHING, Trainer, contrastive, feature, matching, modelling, momentum_features, text, vision
from stream import NEGATIVES, STUDENT, Stream, draw

UNKNOWN = -100  # The image of a queue's entry that was not written in this stage.
SEED = 0  # Of the numbers that choose negatives.


def lanes(config, batch):
    """Rows of each lane."""
    return torch.arange(len(batch.image)).chunk(config.lanes)


def of(batch, rows):
    """Some rows of a batch."""
    return replace(
        batch, image=batch.image[rows], input_ids=batch.input_ids[rows], attention_mask=batch.attention_mask[rows]
    )


def mean(losses):
    return torch.stack(losses).mean()


class Captioner(Trainer):
    """Language modelling after a prompt. There is neither temperature nor momentum encoder."""

    def begin(self):
        pass

    def losses(self, batch):
        w, config = self.weights, self.config
        image_embeds = vision(w, config, batch.image)
        found = [modelling(w, config, of(batch, rows), image_embeds[rows], EVERYTHING)[0] for rows in lanes(config, batch)]
        return {"losses": {"lm": mean(found)}}


class Filter(Trainer):
    """Contrast and matching, where all texts of an image match it. Negatives come from all lanes, never of the same image;
    where the batch has none, they are drawn with Medley's uniform numbers by the student's own similarities."""

    POINTER = "ptr_queue"

    def __init__(self, config, state, dtype):
        super().__init__(config, state, dtype)
        self.queued = state["idx_queue"].clone()
        self.number = 0

    def losses(self, batch):
        w, config = self.weights, self.config
        image_m, text_m = momentum_features(w, config, batch, EVERYTHING)
        image_embeds = vision(w, config, batch.image)
        words = text(w, config, batch.input_ids, batch.attention_mask)
        features = feature(w, "vision_proj", image_embeds), feature(w, "text_proj", words)
        if batch.image_negatives is None:
            batch = self.drawn(batch, *(f.detach() for f in features))
        itc, itm = [], []
        for rows in lanes(config, batch):
            student, teacher = ([f[rows] for f in pair] for pair in (features, (image_m, text_m)))
            own = self.positives(batch.idx[rows]).to(image_m.dtype)
            itc.append(contrastive(w["temp"], student, teacher, self.queues, batch.alpha, own)[0])
            itm.append(matching(w, config, batch, image_embeds, rows, EVERYTHING)[0])
        self.queued[0, self.enqueue(image_m, text_m)] = batch.idx
        self.number += 1
        losses = {"itc": mean(itc), "itm": mean(itm)}
        return {"losses": losses, "image_feat_m": image_m, "text_feat_m": text_m, "batch": batch}

    def positives(self, idx):
        """Even shares of a lane's samples and queued ones that show the same image: b × (b + q)."""
        same = (idx[:, None] == torch.cat([idx[None], self.queued], dim=1)).double()
        return same / same.sum(dim=1, keepdim=True)

    def drawn(self, batch, image, words):
        """The batch with negatives for each lane's rows, from the rows of all lanes."""
        kinds = [[], []]
        for lane, rows in enumerate(lanes(self.config, batch)):
            stream = Stream(SEED, NEGATIVES).at(self.number, lane, STUDENT)
            same = batch.idx[rows, None] == batch.idx[None]
            for kind, (queries, candidates) in enumerate([(words, image), (image, words)]):
                logits = queries[rows] @ candidates.T / self.params["temp"].detach()
                weights = torch.softmax(logits, dim=1).masked_fill(same, 0.0)
                kinds[kind].append(draw(weights, stream.uniform(list(range(len(rows))), kind, 0, 0)))
        images, texts = map(torch.cat, kinds)
        return replace(batch, image_negatives=images, text_negatives=texts)
