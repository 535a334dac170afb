"""LLaMA (Hugging Face): RMS norm, rotary positions, gated layers, and keys and values shared by groups of queries."""

from zoo_data import texts


def model(layers=2, width=36, inner=50, heads=6, groups=3, vocabulary=71):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def batches(batch=6, tokens=10, vocabulary=71):
    return texts(batch, tokens, vocabulary)


def example_inputs(**sizes):
    return next(batches(**sizes))
