"""LeNet-5 on handwritten digits, as a plain model: scikit-learn's 8 x 8 pixels, enlarged bilinearly to MNIST's 28 x 28.

`lenet5.py` is the same network distributed by hand, and ``autopar compile examples/lenet5_model.py --grid 2x2`` lets the
compiler do it.
"""

import torch
import torch.nn.functional as F
from torch import nn

SIZE, BATCH = 28, 64


class LeNet5(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def logits(self, images):
        x = F.max_pool2d(F.relu(self.conv1(images)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x.flatten(1))))))

    def forward(self, images, labels):
        return F.cross_entropy(self.logits(images), labels)


def model():
    return LeNet5()


def example_inputs(batch=BATCH):
    return {"images": torch.zeros(batch, 1, SIZE, SIZE), "labels": torch.zeros(batch, dtype=torch.int64)}


def optimizer(params):
    return torch.optim.Adam(params, lr=3e-3)


def batches(batch=BATCH):
    images, labels = digits()
    draw = torch.Generator().manual_seed(0)
    while True:
        yield from epoch(images, labels, draw, batch)


def epoch(images, labels, draw, batch=BATCH):
    """All images once, in an order of `draw`, but for those that fill no batch."""
    order = torch.randperm(len(images), generator=draw)
    for chosen in order[: len(order) // batch * batch].split(batch):
        yield {"images": images[chosen], "labels": labels[chosen]}


def digits():
    """1797 images in 0..1 and what they show."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    images = F.interpolate(images, size=(SIZE, SIZE), mode="bilinear")
    return images, torch.tensor(data.target, dtype=torch.int64)
