"""ViT (Hugging Face): a transformer over the patches of an image, with a class token in front."""

from zoo_data import images


def model(layers=2, width=30, inner=50, heads=3, size=20, patch=5):
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=size,
        patch_size=patch,
        num_labels=10,
    )
    return ViTForImageClassification(config)


def batches(batch=6, size=20):
    return images(batch, size, 10)


def example_inputs(**sizes):
    return next(batches(**sizes))
