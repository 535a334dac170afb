"""A small 3-D network that finds the bright tissue in a magnetic resonance volume, of which every rank reads its part only.

The volume is one NIfTI file, written here from the scan that nibabel ships, repeated until it has `SIZE` voxels; it is read by
slices, and nobody holds it whole. Segmentation is by voxel, and so a rank needs no more of the file than its own rows.
"""

import itertools
import os
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

CHANNELS = 8
SIZE = (128, 96, 96)  # voxels
BRIGHT = 0.25  # of the largest value
VOLUME = Path(tempfile.gettempdir()) / f"autopar_volume_{'x'.join(map(str, SIZE))}.nii"


class Segmenter(nn.Module):
    def __init__(self, channels=CHANNELS):
        super().__init__()
        self.first = nn.Conv3d(1, channels, kernel_size=3, padding=1)
        self.second = nn.Conv3d(channels, channels, kernel_size=3, padding=1)
        self.head = nn.Conv3d(channels, 1, kernel_size=1)

    def forward(self, image, label):
        hidden = F.silu(self.second(F.silu(self.first(image))))
        return F.binary_cross_entropy_with_logits(self.head(hidden), label)


def model():
    return Segmenter()


def example_inputs(size=SIZE):
    return {"image": torch.zeros(1, 1, *size), "label": torch.zeros(1, 1, *size)}


def optimizer(params):
    return torch.optim.AdamW(params, lr=1e-2)


def batches(part):
    """One volume, again and again, brighter in some steps than in others; where boundaries move, from `part.start` on."""
    for step in itertools.count(part.start):
        yield read(part, 1 + 0.1 * (step % 3))


def evaluate(part):
    yield read(part, 1.0)


def read(part, brightness):
    """This rank's slices of the volume, and which voxels of it are bright."""
    import nibabel

    scan = nibabel.load(written()).dataobj
    image, clean = (
        part.slice(name, scan)[None, None] for name in ("image", "label")
    )  # which may be cut in different ways
    return {"image": image * brightness, "label": (clean > BRIGHT).to(clean.dtype)}


def written(size=SIZE, path=VOLUME):
    """The file, written once, one slice of the scan after another."""
    import nibabel
    import numpy as np

    if not path.exists():
        source = Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz"
        scan = nibabel.load(source).get_fdata(dtype=np.float32)[..., 0]
        scan /= scan.max()
        header = nibabel.Nifti1Image(np.zeros((1, 1, 1), np.float32), np.eye(4)).header
        header.set_data_shape(size)
        header.set_data_offset(352)
        own = path.with_suffix(f".{os.getpid()}")
        with own.open("wb") as file:
            file.write(header.binaryblock)
            file.write(bytes(352 - file.tell()))
            for z in range(size[2]):
                rows = [np.arange(n) % m for n, m in zip(size[:2], scan.shape[:2], strict=True)]
                file.write(scan[np.ix_(*rows)][..., z % scan.shape[2]].astype("<f4").tobytes(order="F"))
        own.replace(path)  # ranks may write it at the same time
    return path
