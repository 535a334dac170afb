"""Whisper (Hugging Face): sound through two convolutions and an encoder, text from a decoder that looks at it."""

import torch

IGNORED = -100


def model(layers=2, width=30, inner=50, heads=3, bands=9, frames=22, vocabulary=71):
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=vocabulary,
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=inner,
        decoder_ffn_dim=inner,
        num_mel_bins=bands,
        max_source_positions=frames // 2,
        max_target_positions=128,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        use_cache=False,
    )
    return WhisperForConditionalGeneration(config)


def batches(batch=6, bands=9, frames=22, tokens=7, vocabulary=71):
    draw = torch.Generator().manual_seed(0)
    while True:
        sound = torch.randn(batch, bands, frames, generator=draw)
        labels = torch.randint(3, vocabulary, (batch, tokens), generator=draw)
        ends = torch.randint(tokens // 2, tokens + 1, (batch, 1), generator=draw)
        yield {"input_features": sound, "labels": torch.where(torch.arange(tokens) < ends, labels, IGNORED)}


def example_inputs(**sizes):
    return next(batches(**sizes))
