"""Measurements as a calibration would have written them, of a machine that is known exactly: what it says must come out."""

import json

from autopar.ir.calibration_data import VERSION

RATES = {"local": (2e-6, 2e10), "intra": (1e-5, 5e9), "inter": (2e-4, 1.2e8)}
TABLE = {  # primitive -> directions that are measured, with where they happen (None: between ranks)
    "split": (("forward", "local"), ("adjoint", None)),
    "take": (("forward", "local"), ("adjoint", "local")),
    "keep": (("forward", "local"),),
    "once": (("adjoint", "local"),),
    "copy": (("adjoint", None),),
    "all_sum": (("forward", None),),
    "reduce_scatter": (("forward", None), ("adjoint", None)),
    "gather": (("forward", None),),
    "all_gather": (("forward", None), ("adjoint", None)),
    "zero_fill": (("forward", "local"), ("adjoint", "local")),
    "all_to_all": (("forward", None), ("adjoint", None)),
    "halo": (("forward", None), ("adjoint", None)),
    "gradient_sum": (("forward", None),),
    "message": (("forward", None),),
}
SHRINKS = ("split", "take", "reduce_scatter")
GROWS = ("gather", "all_gather", "zero_fill")


def repeats(seconds, noise):
    """Five repeats around `seconds`, which is their median; `noise` is the distance between their quartiles."""
    return [seconds * (1 + noise * step / 1.5) for step in (-1, -0.5, 0, 0.5, 1)]


def moved(places, noise=0.01):
    from autopar.costmodel.calibration_reader import priced_bytes
    from autopar.ir.calibration_data import TimedMove

    found = []
    for place in places:
        for primitive, directions in TABLE.items():
            for direction, where in directions:
                if where == "local" and place != places[0]:
                    continue
                for power in range(9):
                    whole, part = 64 * 4**power, 32 * 4**power
                    before, after = (part if primitive in GROWS else whole), (part if primitive in SHRINKS else whole)
                    one = TimedMove(primitive, direction, where or place, 2, before, after, (1.0,))
                    alpha, beta = RATES[where or place]
                    seconds = repeats(alpha + priced_bytes(one) / beta, noise)
                    found.append((primitive, direction, where or place, 2, before, after, seconds))
    keys = ("primitive", "direction", "place", "ranks", "before", "after", "seconds")
    return [dict(zip(keys, one, strict=True)) for one in found]


def computed(noise=0.01):
    speed = {"matmul": 1e11, "conv": 2e11, "attention": 5e10, "pointwise": 2e9, "reduce": 1e10, "memory": 1e9}
    rows = [("operator", f"a {work}", work, "float32", "forward", 1e9, 1e9 / rate) for work, rate in speed.items()]
    rows += [("operator", "a matmul", "matmul", "float32", "backward", 2e9, 2e9 / 8e10)]
    rows += [("operator", "a conv", "conv", "float32", "backward", 2e9, 2e9 / 1e11)]
    rows += [
        ("operator", "a matmul", "matmul", dtype, "forward", 1e9, 1e9 / rate)
        for dtype, rate in (("float64", 5e10), ("bfloat16", 4e11))
    ]
    rows += [
        ("memory", "copy", "", "float32", "forward", 1e9, 1e9 / 2e10),
        ("memory", "sum", "", "float32", "forward", 1e9, 1e9 / 3e10),
    ]
    rows += [("floor", way, "", "float32", way, 32.0, 32 * 4e-6) for way in ("forward", "backward")]
    rows += [
        ("update", name, name, "float32", "forward", 1e9, 1e9 / rate)
        for name, rate in (("sgd", 9e9), ("momentum", 8e9), ("adamw", 7e9))
    ]
    keys = ("kind", "name", "work", "dtype", "direction", "amount", "seconds")
    return [dict(zip(keys, (*one[:-1], repeats(one[-1], noise)), strict=True)) for one in rows]


def raw(places=(0, 0), cores=2, noise=0.01, **more):
    """The measurements of two ranks on one host; of (0, 0, 2, 2), two on each of two; of (0, 1) one on each."""
    links = [place for place, there in (("intra", places.count(0) > 1), ("inter", len(set(places)) > 1)) if there]
    found = {
        "version": VERSION,
        "quick": False,
        "places": list(places),
        "cores": cores,
        "software": "made up",
        "seconds": 1.5,
        "moved": moved(links, noise),
        "computed": computed(noise),
        "overlap_intra": 0.1 if "intra" in links else None,
        "overlap_inter": 0.9 if "inter" in links else None,
    }
    return found | more


def written(folder, found):
    path = folder / "raw.json"
    path.write_text(json.dumps(found))
    return path
