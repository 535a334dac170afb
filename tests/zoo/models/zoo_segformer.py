"""SegFormer (Hugging Face): a hierarchy of transformers whose keys are convolved smaller, and a class per pixel."""

import torch

CLASSES = 5


def model(widths=(12, 20), decoder=14, depth=1, dropout=0.1):
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    levels = len(widths)
    config = SegformerConfig(
        num_encoder_blocks=levels,
        depths=[depth] * levels,
        sr_ratios=[8, 4, 2, 1][-levels:],
        hidden_sizes=list(widths),
        patch_sizes=[7, 3, 3, 3][:levels],
        strides=[4, 2, 2, 2][:levels],
        num_attention_heads=[1, 2, 5, 8][:levels],
        mlp_ratios=[2] * levels,
        decoder_hidden_size=decoder,
        num_labels=CLASSES,
        classifier_dropout_prob=dropout,
        drop_path_rate=dropout,
    )
    return SegformerForSemanticSegmentation(config)


def batches(batch=3, size=40):
    draw = torch.Generator().manual_seed(0)
    while True:
        pixels = torch.randn(batch, 3, size, size, generator=draw)
        yield {"pixel_values": pixels, "labels": torch.randint(CLASSES, (batch, size, size), generator=draw)}


def example_inputs(**sizes):
    return next(batches(**sizes))
