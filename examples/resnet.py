"""A ResNet of basic blocks (Hugging Face) that reads handwritten digits (scikit-learn's, at 16 x 16 pixels)."""

import torch
import torch.nn.functional as F

WIDTHS, DEPTHS = (32, 64, 128), (2, 2, 2)
SIZE, BATCH = 16, 64


def model(widths=WIDTHS, depths=DEPTHS):
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        num_channels=1,
        num_labels=10,
        layer_type="basic",
        embedding_size=widths[0],
        hidden_sizes=list(widths),
        depths=list(depths),
    )
    return ResNetForImageClassification(config)


def example_inputs(size=SIZE, batch=BATCH):
    return {"pixel_values": torch.zeros(batch, 1, size, size), "labels": torch.zeros(batch, dtype=torch.int64)}


def optimizer(params):
    return torch.optim.SGD(params, lr=0.05, momentum=0.9, weight_decay=1e-4)


def batches(size=SIZE, batch=BATCH):
    images, labels = digits(size)
    draw = torch.Generator().manual_seed(0)
    while True:
        chosen = torch.randint(len(images), (batch,), generator=draw)
        yield {"pixel_values": images[chosen], "labels": labels[chosen]}


def digits(size):
    """1797 digits of 8 x 8 pixels with mean 0 and variance 1, enlarged to `size`, and what they show."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None]
    images = F.interpolate((images - images.mean()) / images.std(), size=(size, size), mode="bilinear")
    return images, torch.tensor(data.target, dtype=torch.int64)
