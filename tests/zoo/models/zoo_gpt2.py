"""GPT-2 (Hugging Face): a causal language model, its input and output embeddings tied."""

from zoo_data import texts


def model(layers=2, width=30, heads=3, vocabulary=71, tokens=10, dropout=0.1):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=tokens,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=0,
        eos_token_id=0,
        loss_type="ForCausalLM",
        use_cache=False,
    )
    return GPT2LMHeadModel(config)


def batches(batch=6, tokens=10, vocabulary=71):
    return texts(batch, tokens, vocabulary)


def example_inputs(**sizes):
    return next(batches(**sizes))
