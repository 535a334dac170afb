"""A function that a model imports from another file."""

from torch.autograd import Function


class Clamped(Function):
    @staticmethod
    def forward(ctx, x, most):
        ctx.most = most
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return grad.clamp(-ctx.most, ctx.most), None
