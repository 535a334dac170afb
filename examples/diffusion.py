"""A diffusion model (a U-Net that predicts noise) that learns to draw handwritten digits (scikit-learn's, enlarged).

Ho et al. (2020): an image is mixed with noise, more of it the later the time; the network sees the mixture and the time
and predicts the noise. Two levels of resolution, attention on the coarse one.
"""

import torch
import torch.nn.functional as F
from torch import nn

WIDTH, GROUPS, HEADS = 64, 8, 4
SIZE, BATCH = 32, 32
TIMES = 1000


class TimeEmbedding(nn.Module):
    """Waves of the time, from one radian per step to one in ten thousand, and two linear layers."""

    def __init__(self, width):
        super().__init__()
        self.half = width // 2
        self.first = nn.Linear(2 * self.half, 4 * width)
        self.second = nn.Linear(4 * width, 4 * width)

    def forward(self, time):
        rates = torch.exp(torch.arange(self.half) * (-9.21 / self.half))
        angles = time[:, None] * rates
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)
        return self.second(F.silu(self.first(waves)))


class Residual(nn.Module):
    """Two normalised convolutions around a shift by the time, beside a shortcut."""

    def __init__(self, inputs, outputs, embedding, groups):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.shift = nn.Linear(embedding, outputs)
        self.norm2 = nn.GroupNorm(groups, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x, time):
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.shift(F.silu(time))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + self.shortcut(x)


class Attention(nn.Module):
    """Every pixel looks at all pixels of its image."""

    def __init__(self, width, groups, heads):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x):
        rows = self.norm(x).flatten(2).transpose(1, 2)  # [batch, pixels, channels]
        q, k, v = (
            layer(rows).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.out(seen).transpose(1, 2).reshape(x.shape)


class UNet(nn.Module):
    def __init__(self, width=WIDTH, groups=GROUPS, heads=HEADS):
        super().__init__()
        fine, coarse, embedding = width, 2 * width, 4 * width
        self.time = TimeEmbedding(width)
        self.stem = nn.Conv2d(1, fine, 3, padding=1)
        self.encode = Residual(fine, fine, embedding, groups)
        self.down = nn.Conv2d(fine, coarse, 3, stride=2, padding=1)
        self.middle1 = Residual(coarse, coarse, embedding, groups)
        self.attention = Attention(coarse, groups, heads)
        self.middle2 = Residual(coarse, coarse, embedding, groups)
        self.up = nn.Conv2d(coarse, fine, 3, padding=1)
        self.decode = Residual(2 * fine, fine, embedding, groups)
        self.norm = nn.GroupNorm(groups, fine)
        self.head = nn.Conv2d(fine, 1, 3, padding=1)

    def forward(self, x, time):
        time = self.time(time)
        fine = self.encode(self.stem(x), time)
        coarse = self.middle1(self.down(fine), time)
        coarse = self.middle2(self.attention(coarse), time)
        upper = self.up(F.interpolate(coarse, scale_factor=2, mode="nearest"))
        h = self.decode(torch.cat([upper, fine], dim=1), time)
        return self.head(F.silu(self.norm(h)))


class Diffusion(nn.Module):
    """The training loss: the mean squared error of the predicted noise."""

    def __init__(self, unet):
        super().__init__()
        self.unet = unet
        kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, TIMES), dim=0)  # share of the image's variance left
        self.register_buffer("image_share", kept.sqrt(), persistent=False)
        self.register_buffer("noise_share", (1 - kept).sqrt(), persistent=False)

    def forward(self, image, noise, time):
        def at_time(share):
            return share[time][:, None, None, None]

        noisy = at_time(self.image_share) * image + at_time(self.noise_share) * noise
        return F.mse_loss(self.unet(noisy, time), noise)


def model(width=WIDTH, groups=GROUPS, heads=HEADS):
    return Diffusion(UNet(width, groups, heads))


def example_inputs(size=SIZE, batch=BATCH):
    image = torch.zeros(batch, 1, size, size)
    return {"image": image, "noise": image, "time": torch.zeros(batch, dtype=torch.int64)}


def optimizer(params):
    return torch.optim.AdamW(params, lr=3e-4)


def batches(size=SIZE, batch=BATCH):
    images, draw = digits(size), torch.Generator().manual_seed(0)
    while True:
        image = images[torch.randint(len(images), (batch,), generator=draw)]
        noise = torch.randn(image.shape, generator=draw)
        yield {"image": image, "noise": noise, "time": torch.randint(TIMES, (batch,), generator=draw)}


def digits(size):
    """1797 digits of 8 x 8 pixels between -1 and 1, enlarged to `size`."""
    from sklearn.datasets import load_digits

    images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1
    return F.interpolate(images, size=(size, size), mode="bilinear")
