"""A byte-level GPT-2 (Hugging Face) that learns to write like Python's own documentation."""

import torch

LAYERS, WIDTH, HEADS = 4, 128, 4
TOKENS, BATCH = 128, 8


def model(layers=LAYERS, width=WIDTH, heads=HEADS, tokens=TOKENS):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=256,  # one token per byte
        n_positions=tokens,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        loss_type="ForCausalLM",
        use_cache=False,
    )
    return GPT2LMHeadModel(config)


def example_inputs(tokens=TOKENS, batch=BATCH):
    ids = torch.zeros(batch, tokens, dtype=torch.int64)
    return {"input_ids": ids, "labels": ids}


def optimizer(params):
    return torch.optim.AdamW(params, lr=1e-3)


def batches(tokens=TOKENS, batch=BATCH):
    text, draw = documentation(), torch.Generator().manual_seed(0)
    while True:
        starts = torch.randint(len(text) - tokens, (batch,), generator=draw)
        ids = torch.stack([text[start : start + tokens] for start in starts.tolist()])
        yield {"input_ids": ids, "labels": ids}


def documentation():
    """The help texts that come with CPython, as bytes."""
    from pydoc_data.topics import topics

    return torch.tensor(list("\n".join(topics.values()).encode()), dtype=torch.int64)
