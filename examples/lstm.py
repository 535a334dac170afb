"""A byte-level language model of two LSTM layers that learns to write like Python's own documentation."""

import torch
import torch.nn.functional as F
from torch import nn

LAYERS, WIDTH = 2, 256
TOKENS, BATCH = 64, 32


class LanguageModel(nn.Module):
    def __init__(self, layers=LAYERS, width=WIDTH):
        super().__init__()
        self.embedding = nn.Embedding(256, width)  # one token per byte
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        self.head = nn.Linear(width, 256)

    def forward(self, tokens, following):
        states, _ = self.lstm(self.embedding(tokens))
        return F.cross_entropy(self.head(states).flatten(0, 1), following.flatten())


def model(layers=LAYERS, width=WIDTH):
    return LanguageModel(layers, width)


def example_inputs(tokens=TOKENS, batch=BATCH):
    ids = torch.zeros(batch, tokens, dtype=torch.int64)
    return {"tokens": ids, "following": ids}


def optimizer(params):
    return torch.optim.AdamW(params, lr=2e-3)


def batches(tokens=TOKENS, batch=BATCH):
    text, draw = documentation(), torch.Generator().manual_seed(0)
    while True:
        starts = torch.randint(len(text) - tokens, (batch,), generator=draw)
        ids = torch.stack([text[start : start + tokens + 1] for start in starts.tolist()])
        yield {"tokens": ids[:, :-1], "following": ids[:, 1:]}


def documentation():
    """The help texts that come with CPython, as bytes."""
    from pydoc_data.topics import topics

    return torch.tensor(list("\n".join(topics.values()).encode()), dtype=torch.int64)
