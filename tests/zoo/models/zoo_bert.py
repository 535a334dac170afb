"""BERT (Hugging Face): a masked language model with padded texts; the loss counts the masked tokens only."""

import torch

IGNORED = -100


def model(layers=2, width=30, inner=50, heads=3, vocabulary=71, tokens=10, dropout=0.1):
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=tokens,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return BertForMaskedLM(config)


def batches(batch=6, tokens=10, vocabulary=71):
    draw = torch.Generator().manual_seed(0)
    while True:
        ids = torch.randint(vocabulary, (batch, tokens), generator=draw)
        lengths = torch.randint(tokens // 2, tokens + 1, (batch, 1), generator=draw)
        inside = torch.arange(tokens) < lengths
        asked = inside & (torch.rand(batch, tokens, generator=draw) < 0.3)
        yield {"input_ids": ids, "attention_mask": inside.long(), "labels": torch.where(asked, ids, IGNORED)}


def example_inputs(**sizes):
    return next(batches(**sizes))
