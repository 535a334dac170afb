"""Small models with something that a program's text or a repeated block can stumble over."""

import torch
from small_models import normal
from torch import nn


def square(width=6):
    return nn.Linear(width, width)


class Sine(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = square()

    def forward(self, x):
        return x + torch.sin(self.fc(x))


class Tanh(Sine):
    def forward(self, x):
        return x + 2 * torch.tanh(self.fc(x))


class Plain(nn.Module):
    """A block without parameters."""

    def forward(self, x):
        return x + torch.sin(2 * x)


class Pair(nn.Module):
    """A block that hands on two tensors."""

    def __init__(self):
        super().__init__()
        self.f, self.g = square(), square()

    def forward(self, x, y):
        return x + torch.sin(self.f(y)), y + torch.cos(self.g(x))


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.f, self.g = square(), square()

    def forward(self, x, mask):
        return x + self.g(self.f(x) * mask) * mask


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(6, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x):
        return x + torch.sin(self.norm(self.conv(x)))


class Listed(nn.Module):
    """Blocks in a list, called in the given order after a Linear."""

    def __init__(self, blocks, order=None, name="blocks"):
        super().__init__()
        self.first = square()
        self.order, self.name = order or range(len(blocks)), name
        setattr(self, name, nn.ModuleList(blocks))

    def forward(self, x):
        x = torch.tanh(self.first(x))
        for i in self.order:
            x = getattr(self, self.name)[i](x)
        return x.square().mean()


class Pairs(nn.Module):
    def __init__(self, swapped=False):
        super().__init__()
        self.swapped = swapped
        self.blocks = nn.ModuleList(Pair() for _ in range(3))

    def forward(self, x, y):
        x, y = torch.tanh(x + self.blocks[0].f(y)), torch.tanh(self.blocks[1].g(x - y))
        for block in self.blocks:
            x, y = block(y, x) if self.swapped else block(x, y)
        return (x * y).square().mean()


class SameStart(nn.Module):
    """What enters the blocks is read again behind them."""

    def __init__(self):
        super().__init__()
        self.first = square()
        self.blocks = nn.ModuleList(Pair() for _ in range(3))

    def forward(self, x, y):
        h = torch.tanh(self.first(x + y))
        a, b = h, h + y
        for block in self.blocks:
            a, b = block(a, b)
        return (a * b).square().mean() + h.mean()


class MaskedBlocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = square()
        self.layer = nn.ModuleList(Masked() for _ in range(3))

    def forward(self, x):
        mask = torch.sigmoid(self.gate(x))
        x = self.gate(mask)
        for block in self.layer:
            x = block(x, mask)
        return (x * mask).square().mean()


class Dense(nn.Module):
    """Every block reads what all blocks before it made."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Sine() for _ in range(3))

    def forward(self, x):
        seen = [x]
        for block in self.blocks:
            seen.append(block(sum(seen)))
        return torch.cat(seen, 1).square().mean()


class Stages(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = square()
        self.stages = nn.ModuleList(nn.Sequential(Sine(), Sine()) for _ in range(2))

    def forward(self, x):
        x = torch.relu(self.first(x))
        for stage in self.stages:
            x = stage(x)
        return x.square().mean()


class SharedWeights(nn.Module):
    """One weight in two blocks, a frozen one, a buffer, and an input that nothing reads."""

    def __init__(self):
        super().__init__()
        self.a, self.b = square(), square()
        self.a.weight.requires_grad_(False)
        self.register_buffer("scale", torch.arange(6.0))
        self.h = nn.ModuleList(Sine() for _ in range(2))
        self.h[1].fc.weight = self.h[0].fc.weight

    def forward(self, x, unread):
        x = torch.tanh(self.b(self.a(x) * self.scale))
        for block in self.h:
            x = block(x)
        return x.square().mean()


class Reserved(nn.Module):
    """Inputs called as things of the program are."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Sine() for _ in range(3))
        self.down = square()

    def forward(self, p, copy, layer, F, input, block):
        x = p + copy
        for one in self.blocks:
            x = one(x)
        return ((self.down(x) + layer) * F + torch.relu(input) * block).square().mean()


class OddNames(nn.Module):
    """Parameters called as builtins and runtime functions are, or with a dash."""

    def __init__(self):
        super().__init__()
        self.w = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(6)) for name in ("list", "odd-name", "range", "gather")}
        )
        self.lambda_ = square()

    def forward(self, x):
        x = x * self.w["list"] + self.w["odd-name"] * self.w["range"] - self.w["gather"]
        return self.lambda_(x.masked_fill(x > 1, float("-inf")).clamp(min=-3)).square().mean()


class Counted(nn.Module):
    """Buffers whose old values are read after their new ones are made."""

    def __init__(self):
        super().__init__()
        self.fc = square()
        self.register_buffer("steps", torch.ones((), dtype=torch.int64))
        self.register_buffer("average", torch.ones(6))

    def forward(self, x):
        scale = self.steps * 2
        y = self.fc(x)
        old = self.average.clone()
        with torch.no_grad():
            self.steps += 1
            self.average.mul_(0.9).add_(0.1 * y.detach().mean(0))
        return ((y * scale).square() + (y.detach() * old).mean()).mean() + (x * scale).mean()


class NormTwice(nn.Module):
    """A batch norm that is used twice in one step."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.conv = nn.Conv1d(6, 6, 3, padding=1, bias=False)

    def forward(self, x):
        y = self.norm(self.conv(torch.tanh(self.norm(self.conv(x)))))
        return (y * torch.arange(5.0)).square().mean() + x.sum()


class NormedBlocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Normed(), Normed(), Normed())

    def forward(self, x):
        return self.blocks(x).square().mean()


def one():
    return {"x": normal(4, 6)}


def two():
    return {"x": normal(4, 6), "y": normal(4, 6)}


ODD = {
    "again": (lambda: Listed([Sine() for _ in range(3)], (0, 1, 0, 2)), one),
    "there_and_back": (lambda: Listed([Sine() for _ in range(3)], (0, 1, 2, 1, 0)), one),
    "backwards": (lambda: Listed([Sine() for _ in range(3)], (2, 0, 1)), one),
    "layers": (lambda: Listed([Sine() for _ in range(3)], name="layers"), one),
    "kinds": (lambda: Listed([Sine(), Sine(), Tanh(), Tanh(), Sine(), Sine()]), one),
    "gaps": (lambda: Listed([nn.Tanh(), Sine(), Sine(), nn.Identity(), Sine(), nn.Tanh(), Tanh(), Tanh()]), one),
    "plain": (lambda: Listed([Plain() for _ in range(3)]), one),
    "pairs": (Pairs, two),
    "swapped": (lambda: Pairs(swapped=True), two),
    "same_start": (SameStart, two),
    "masked": (MaskedBlocks, one),
    "dense": (Dense, one),
    "stages": (Stages, one),
    "shared": (SharedWeights, lambda: {"x": normal(4, 6), "unread": normal(3)}),
    "reserved": (Reserved, lambda: {name: normal(4, 6) for name in ("p", "copy", "layer", "F", "input", "block")}),
    "odd_names": (OddNames, one),
    "counted": (Counted, one),
    "norm_twice": (NormTwice, lambda: {"x": normal(4, 6, 5)}),
    "normed": (NormedBlocks, lambda: {"x": normal(4, 6, 5)}),
}
