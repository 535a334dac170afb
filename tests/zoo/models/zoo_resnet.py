"""ResNet (Hugging Face) of bottleneck blocks: batch norm, strided convolutions, global pooling."""

from zoo_data import images


def model(stem=6, widths=(12, 20), depths=(1, 2)):
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=stem, hidden_sizes=list(widths), depths=list(depths), layer_type="bottleneck", num_labels=10
    )
    return ResNetForImageClassification(config)


def batches(batch=6, size=20):
    return images(batch, size, 10)


def example_inputs(**sizes):
    return next(batches(**sizes))
