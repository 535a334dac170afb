"""AlexNet in its original two groups (61 million parameters): the network whose parallelisation Gholami and others priced.

Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", NIPS 2012, without
dropout and local response normalisation, which send nothing when the batch or the space is split. Random images stand in
for ImageNet. ``python -m benchmarks.gholami2018 --planner`` compares autopar's plans with the paper's best grids.
"""

import torch
import torch.nn.functional as F
from torch import nn

SIZE, BATCH, CLASSES = 227, 32, 1000


class AlexNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 96, 11, stride=4)
        self.conv2 = nn.Conv2d(96, 256, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1, groups=2)
        self.fc6 = nn.Linear(256 * 6 * 6, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, CLASSES)

    def features(self, images):
        x = F.max_pool2d(F.relu(self.conv1(images)), 3, stride=2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 3, stride=2)
        x = F.relu(self.conv4(F.relu(self.conv3(x))))
        return F.max_pool2d(F.relu(self.conv5(x)), 3, stride=2)

    def forward(self, images, labels):
        x = F.relu(self.fc6(self.features(images).flatten(1)))
        return F.cross_entropy(self.fc8(F.relu(self.fc7(x))), labels)


def model():
    return AlexNet()


def example_inputs(batch=BATCH):
    return {"images": torch.zeros(batch, 3, SIZE, SIZE), "labels": torch.zeros(batch, dtype=torch.int64)}


def optimizer(params):
    return torch.optim.SGD(params, lr=0.01, momentum=0.9, weight_decay=5e-4)


def batches(batch=BATCH):
    draw = torch.Generator().manual_seed(0)
    while True:
        images = torch.randn(batch, 3, SIZE, SIZE, generator=draw)
        yield {"images": images, "labels": torch.randint(CLASSES, (batch,), generator=draw)}
