"""Mixtral (Hugging Face): LLaMA with a mixture of experts, two of which see each token."""

from zoo_data import texts


def model(layers=1, width=36, inner=44, heads=6, groups=3, experts=5, vocabulary=71):
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        num_local_experts=experts,
        num_experts_per_tok=2,
        use_cache=False,
    )
    return MixtralForCausalLM(config)


def batches(batch=6, tokens=10, vocabulary=71):
    return texts(batch, tokens, vocabulary)


def example_inputs(**sizes):
    return next(batches(**sizes))
