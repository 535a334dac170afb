"""The ResNet by hand: the batch split, with batch normalisation over both halves."""

import torch.nn.functional as F

from autopar.runtime import all_sum, batch_norm
from benchmarks.contenders.by_hand import HandwrittenPlan, rows, whole


def conv(x, p, axis, stride):
    y = F.conv2d(x, p.convolution.weight, None, stride, p.convolution.weight.shape[-1] // 2)
    n = p.normalization
    return batch_norm(y, n.weight, n.bias, n.running_mean, n.running_var, over=(axis,))


def layer(x, p, axis, stride):
    y = conv(F.relu(conv(x, p.layer[0], axis, stride)), p.layer[1], axis, 1)
    return F.relu(y + (conv(x, p.shortcut, axis, stride) if "shortcut" in vars(p) else x))


def forward(p, axis, pixel_values, labels):
    x = F.max_pool2d(F.relu(conv(pixel_values, p.resnet.embedder.embedder, axis, 2)), 3, 2, 1)
    for i, stage in enumerate(p.resnet.encoder.stages):
        for j, one in enumerate(stage.layers):
            x = layer(x, one, axis, 2 if i and not j else 1)
    logits = F.linear(x.mean((2, 3)), p.classifier[1].weight, p.classifier[1].bias)
    return all_sum(F.cross_entropy(logits, labels, reduction="sum") / (len(labels) * axis.size), axis)


PLAN = HandwrittenPlan(forward, whole, rows(0), summed=True)
