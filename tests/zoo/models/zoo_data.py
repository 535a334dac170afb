"""Batches of random numbers for the models beside this file."""

import torch


def texts(batch, tokens, vocabulary):
    """Token numbers that are their own labels."""
    draw = torch.Generator().manual_seed(0)
    while True:
        ids = torch.randint(vocabulary, (batch, tokens), generator=draw)
        yield {"input_ids": ids, "labels": ids}


def images(batch, size, classes):
    """Images in three colours, and a class for each."""
    draw = torch.Generator().manual_seed(0)
    while True:
        pixels = torch.randn(batch, 3, size, size, generator=draw)
        yield {"pixel_values": pixels, "labels": torch.randint(classes, (batch,), generator=draw)}
