"""LeNet-5 distributed by hand over four ranks, as in Hewett and Grady, beside its sequential twin:

    mpiexec -n 4 python -m mpi4py examples/lenet5.py

Images lie on rank 0, are cut into quarters, and stay so through both convolutions and poolings; 28 rows are cut in 14 and
14, then 10 in 5 and 5, of which pooling makes 3 and 2: so it needs a row of its neighbour, and one of its own no more. The
features are then cut over channels, flattened, and put on two ranks; in the affine layers a 2 x 2 arrangement of ranks
holds the quarters of each matrix, and features alternate between ranks 0, 1 and ranks 2, 3. Kernels of convolutions and
the loss are on rank 0. Whatever a rank does not hold is a tensor without elements. Their output goes to the cross entropy
directly, without the sigmoid of their code.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from autopar.runtime import (
    Partition,
    broadcast,
    conv,
    default_world,
    gather_to,
    max_pool,
    nothing,
    repartition,
    scatter,
    sum_reduce,
)

sys.path.insert(0, str(Path(__file__).parent))
from lenet5_model import LeNet5, digits, epoch, optimizer

EPOCHS, TRAINED = 4, 1437  # the other 360 images are for the test


class Convolution(nn.Module):
    """A convolution of images that are cut over rows and columns; its kernel is on the root."""

    def __init__(self, like, root, space):
        super().__init__()
        self.root, self.space, self.padding = root, space, like.padding
        whole = (like.weight, like.bias)
        self.weight, self.bias = (
            nn.Parameter(parameter.detach().clone() if root.active else nothing()) for parameter in whole
        )

    def forward(self, x, over):
        weight, bias = (broadcast(parameter, self.root, self.space) for parameter in (self.weight, self.bias))
        return conv(x, weight, bias, padding=self.padding, over=over)


class Linear(nn.Module):
    """An affine layer whose matrix is cut over rows and columns; the bias is on the first column of ranks."""

    def __init__(self, like, root, matrix, source, target):
        super().__init__()
        self.column = Partition(root.comm, (2,), matrix.ranks[::2])
        self.root, self.matrix, self.source, self.target = root, matrix, source, target
        self.weight = nn.Parameter(scatter(like.weight.detach(), root, matrix))
        self.bias = nn.Parameter(scatter(like.bias.detach(), root, self.column))

    def forward(self, x):
        x = broadcast(x, self.source, self.matrix)  # down the columns of ranks
        y = F.linear(x, self.weight, self.bias if self.column.active else None)
        return sum_reduce(y, self.matrix, self.target.transposed())  # along the rows


class DistributedLeNet5(nn.Module):
    """The network over the four ranks of `comm`, with the parameters that rank 0's sequential `twin` has."""

    def __init__(self, comm, twin):
        super().__init__()
        self.root = root = Partition(comm, (1,))
        self.space, self.matrix = Partition(comm, (1, 1, 2, 2)), Partition(comm, (2, 2))
        self.channels, self.flat = Partition(comm, (1, 4, 1, 1)), Partition(comm, (1, 4))
        self.left, self.right = Partition(comm, (1, 2), (0, 1)), Partition(comm, (1, 2), (2, 3))
        self.rows, self.columns = self.space.axes()[2:]
        self.conv1, self.conv2 = Convolution(twin.conv1, root, self.space), Convolution(twin.conv2, root, self.space)
        self.fc1 = Linear(twin.fc1, root, self.matrix, self.left, self.right)
        self.fc2 = Linear(twin.fc2, root, self.matrix, self.right, self.left)
        self.fc3 = Linear(twin.fc3, root, self.matrix, self.left, self.right)

    def forward(self, images):
        """The logits, on rank 0, of the images there."""
        x = scatter(images, self.root, self.space)
        x = F.relu(self.conv1(x, self.over(28)))
        x = max_pool(x, (2, 2), over=self.over(28))
        x = F.relu(self.conv2(x, self.over(14)))
        x = max_pool(x, (2, 2), over=self.over(10))
        x = repartition(x, self.space, self.channels).flatten(1)
        x = repartition(x, self.flat, self.left)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return gather_to(self.fc3(x), self.right, self.root)

    def loss(self, images, labels):
        """The mean cross entropy on rank 0; elsewhere a zero that leads backward all the same."""
        logits = self(images)
        return F.cross_entropy(logits, labels) if self.root.active else logits.sum()

    def over(self, extent):
        return {2: (self.rows, extent), 3: (self.columns, extent)}

    def whole(self):
        """The whole parameters by the twin's names, on rank 0."""
        with torch.no_grad():
            parameters = {
                f"{name}.{key}": parameter
                for name in ("conv1", "conv2")
                for key, parameter in getattr(self, name).named_parameters()
            }
            for name in ("fc1", "fc2", "fc3"):
                layer = getattr(self, name)
                parameters[f"{name}.weight"] = gather_to(layer.weight, self.matrix, self.root)
                parameters[f"{name}.bias"] = gather_to(layer.bias, layer.column, self.root)
        return {name: parameter.detach() for name, parameter in parameters.items()}


def train(net, loss, images, labels, seed, epochs):
    steps = optimizer(net.parameters())
    draw = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in epoch(images, labels, draw):
            steps.zero_grad()
            loss(**batch).backward()
            steps.step()


def accuracy(logits, labels):
    return (logits.argmax(1) == labels).double().mean().item()


def difference(parameters, twin):
    """The largest relative difference between a parameter in norm and the twin's."""
    expected = {name: tensor.detach() for name, tensor in twin.named_parameters()}
    return max(((parameters[name] - tensor).norm() / tensor.norm()).item() for name, tensor in expected.items())


def data(seed):
    """The digits in an order of `seed`: those to train on, and those to test with."""
    images, labels = digits()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return (images[order[:TRAINED]], labels[order[:TRAINED]]), (images[order[TRAINED:]], labels[order[TRAINED:]])


def main(seed=0):
    comm = default_world()
    (images, labels), (test_images, test_labels) = data(seed)
    torch.manual_seed(seed)
    twin = LeNet5()
    net = DistributedLeNet5(comm, twin)
    train(net, net.loss, images, labels, seed, EPOCHS)
    with torch.no_grad():
        logits = net(test_images)
    parameters = net.whole()
    if comm.rank == 0:
        print(f"four ranks: {accuracy(logits, test_labels):.2%} of {len(test_labels)} digits read", flush=True)
        train(twin, twin, images, labels, seed, EPOCHS)
        print(f"sequential: {accuracy(twin.logits(test_images), test_labels):.2%}")
        print(f"largest relative difference of a parameter, float32: {difference(parameters, twin):.1e}")


if __name__ == "__main__":
    main()
