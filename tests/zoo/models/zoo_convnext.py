"""ConvNeXt (Hugging Face): depthwise convolutions of 7 x 7 pixels, layer norm over channels, and linear layers."""

from zoo_data import images


def model(widths=(10, 20), depths=(1, 2), size=22, patch=2):
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(
        hidden_sizes=list(widths),
        depths=list(depths),
        num_stages=len(widths),
        patch_size=patch,
        num_labels=10,
        image_size=size,
    )
    return ConvNextForImageClassification(config)


def batches(batch=6, size=22):
    return images(batch, size, 10)


def example_inputs(**sizes):
    return next(batches(**sizes))
