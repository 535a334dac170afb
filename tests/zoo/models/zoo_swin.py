"""Swin (Hugging Face): attention inside windows that are shifted from layer to layer, and patches merged by four."""

from zoo_data import images


def model(width=12, depths=(2, 2), heads=(2, 3), size=24, patch=2, window=3, dropped=0.1):
    from transformers import SwinConfig, SwinForImageClassification

    config = SwinConfig(
        image_size=size,
        patch_size=patch,
        embed_dim=width,
        depths=list(depths),
        num_heads=list(heads),
        window_size=window,
        num_labels=10,
        drop_path_rate=dropped,
    )
    return SwinForImageClassification(config)


def batches(batch=6, size=24):
    return images(batch, size, 10)


def example_inputs(**sizes):
    return next(batches(**sizes))
