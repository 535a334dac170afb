"""T5 (Hugging Face): encoder and decoder with relative positions; the decoder's input is the labels, one to the right."""

import torch

IGNORED = -100


def model(layers=2, width=30, inner=50, heads=3, head_width=7, vocabulary=71, dropout=0.1):
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=head_width,
        d_ff=inner,
        num_layers=layers,
        num_heads=heads,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=12,
        dropout_rate=dropout,
        use_cache=False,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config)


def batches(batch=6, tokens=10, answer=7, vocabulary=71):
    draw = torch.Generator().manual_seed(0)
    while True:
        ids = torch.randint(vocabulary, (batch, tokens), generator=draw)
        labels = torch.randint(vocabulary, (batch, answer), generator=draw)
        ends = torch.randint(answer // 2, answer + 1, (batch, 1), generator=draw)
        yield {"input_ids": ids, "labels": torch.where(torch.arange(answer) < ends, labels, IGNORED)}


def example_inputs(**sizes):
    return next(batches(**sizes))
