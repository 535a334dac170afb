"""The 3-D U-Net by hand: the first spatial dim split, rows of neighbours fetched by every 3 x 3 x 3 convolution."""

import torch
import torch.nn.functional as F

from autopar.runtime import all_sum, batch_norm, conv
from benchmarks.contenders.by_hand import HandwrittenPlan, rows, whole


def block(x, p, axis):
    extent = x.shape[2] * axis.size
    for i in (0, 3):
        n = p[i + 1]
        x = conv(x, p[i].weight, None, padding=1, over={2: (axis, extent)})
        x = F.relu(batch_norm(x, n.weight, n.bias, n.running_mean, n.running_var, over=(axis,)))
    return x


def rise(x, p):
    return F.conv_transpose3d(x, p.weight, p.bias, stride=2)


def forward(p, axis, x, y):
    fine = block(x, p.down1, axis)
    middle = block(F.max_pool3d(fine, 2), p.down2, axis)
    coarse = block(F.max_pool3d(middle, 2), p.bottom, axis)
    middle = block(torch.cat([rise(coarse, p.rise2), middle], 1), p.up2, axis)
    fine = block(torch.cat([rise(middle, p.rise1), fine], 1), p.up1, axis)
    error = F.mse_loss(F.conv3d(fine, p.head.weight, p.head.bias), y, reduction="sum")
    return all_sum(error / (y.numel() * axis.size), axis)


PLAN = HandwrittenPlan(forward, whole, rows(2), summed=True)
