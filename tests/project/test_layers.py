"""Who may import whom: the table of docs/design.md, held for every import of the product, wherever in a file it stands.

A layer is some folders and files, the files of a folder being those that stand in it and in no other layer. It may import
what its row says, and no row may say a layer that stands below it in the table, so that nothing is imported upwards.
Imports inside functions, those for types alone, and modules that are named in strings all count.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter

import pytest
from source_files import OTHERS, ROOT, SHIPPED, Source, shipped, sources

# What each layer holds, and what it may import beside the ground, from the ground up.
TABLE = """
# What everything stands on.
ground              | autopar/version.py autopar/errors.py       |
                    | autopar/internal_errors.py                 |
                    | autopar/files.py autopar/progress.py       |
                    | autopar/model_file.py configs              |
ir                  | autopar/ir autopar/ir/pipeline             |
jobs                | autopar/jobs                               |
# A model that a folder says, as a function: what a model file may define.
hugging_face        | autopar/hugging_face                       |
# Numbers alone: where segments stand and who does what when is asked by plans, and again by runs that move segments.
problem             | partitioner                                |
schedules           | partitioner/schedules                      | ir
solvers             | partitioner/solvers                        | problem
placement           | partitioner/placement                      | solvers schedules problem ir
cuts                | partitioner/cuts                           | ir
# Ranks: bytes between them, then what is made of these. A generated program imports the runtime.
transport           | runtime/transport                          |
process             | runtime/process.py runtime/progress.py     | transport jobs
diagnostics         | runtime/diagnostics                        | transport jobs
grid                | runtime/grid                               | diagnostics transport ir
primitives          | runtime/primitives                         | grid diagnostics transport ir
partitions          | runtime/partitions                         | primitives grid transport ir
windowed            | runtime/windowed                           | primitives grid ir
local               | runtime/local                              | grid transport ir
functional          | runtime/functional                         | local windowed primitives grid ir
program             | runtime/program                            | grid ir
parameters          | runtime/parameters                         |
                    | runtime/parameters/moving                  | program primitives grid diagnostics transport ir
checkpoint          | runtime/checkpoint                         | parameters program grid diagnostics transport ir
data                | runtime/data                               | parameters program grid ir
pipeline            | runtime/pipeline                           | parameters program grid transport placement schedules ir
session             | runtime/session                            | checkpoint data pipeline parameters program functional
                    |                                            | primitives grid hugging_face
                    |                                            | diagnostics process transport placement schedules jobs ir
profiling           | runtime/profiling                          | session parameters program grid diagnostics transport ir
calibration         | runtime/calibration                        | primitives grid diagnostics process transport jobs ir
training            | runtime/training                           | profiling session checkpoint data pipeline parameters program
                    | runtime/training/job                       | functional grid diagnostics process transport placement schedules
                    |                                            | cuts jobs ir
prediction          | runtime/prediction                         | training session data parameters program grid diagnostics
                    |                                            | process transport ir
verification        | runtime/verification                       | session data parameters program functional windowed partitions
                    |                                            | primitives grid diagnostics process transport jobs ir
runtime             | runtime                                    | training session program functional local windowed
                    |                                            | partitions primitives grid transport ir
# Operators. A record prints calls of the runtime, whose names no function of the user's may have.
record              | autopar/ops/record                         | runtime ir
library             | autopar/ops/library                        | record local ir
ops                 | autopar/ops                                | library record ir
discovery           | autopar/ops/discovery                      | record ir
lookup              | autopar/ops/lookup.py                      | discovery ops record ir
annotated           | autopar/ops/annotated.py                   | lookup discovery ops record ir
# A module becomes a graph.
capture.diagnostics | autopar/capture/diagnostics                | ir
passes              | autopar/capture/passes                     | lookup ops record ir
tracing             | autopar/capture/tracing                    | capture.diagnostics library
state               | autopar/capture/state                      | tracing passes capture.diagnostics library record ir
exporting           | autopar/capture/exporting                  | state tracing capture.diagnostics ir
validity            | autopar/capture/validity                   | exporting state tracing passes capture.diagnostics ir
capture             | autopar/capture                            | validity exporting state tracing passes capture.diagnostics
                    |                                            | ir
# A graph becomes a problem, a plan, a program.
costmodel           | costmodel                                  | ops record ir
microbatches        | partitioner/microbatches                   | annotated lookup ops record ir
formulation         | partitioner/formulation                    | problem costmodel annotated ops record ir
codegen             | codegen                                    | formulation problem costmodel annotated ops record ir
measure             | autopar/measure                            | codegen formulation costmodel annotated discovery record
                    |                                            | runtime calibration process grid transport ir
planning            | autopar/planning                           | measure codegen formulation placement schedules solvers
                    | autopar/planning/place_axis                | cuts problem microbatches costmodel capture annotated
                    | autopar/planning/unequal                   | ops record ir
                    | autopar/planning/stalls                    |
artifact            | autopar/artifact.py                        | ir
subject             | autopar/subject.py                         | planning microbatches capture annotated ops ir
                    | autopar/divided_model.py                   |
emission            | autopar/emission.py                        | subject planning codegen formulation costmodel annotated
                    | autopar/counts_program.py                  | runtime ir
compiler            | autopar/compiler.py autopar/recompile.py   | emission subject artifact planning formulation problem ir
# What looks at plans, and what people call.
proof               | autopar/proof                              | compiler emission subject planning codegen formulation
                    |                                            | problem capture ops
                    |                                            | discovery record runtime session program functional grid
                    |                                            | transport ir
parallel            | autopar/parallel.py                        | compiler artifact planning training session profiling program
                    |                                            | parameters grid
                    |                                            | diagnostics transport ir
analysis            | autopar/analysis                           | proof compiler artifact subject planning schedules costmodel
                    |                                            | capture validity annotated ops record ir
output              | autopar/cli                                | analysis costmodel jobs ir
commands            | autopar/cli/commands                       | output analysis compiler artifact planning solvers problem
                    |                                            | costmodel discovery record jobs calibration prediction
                    |                                            | verification checkpoint hugging_face ir
console             | autopar/cli/main.py                        | commands output
                    | autopar/cli/__init__.py                    |
                    | autopar/__main__.py                        |
autopar             | autopar                                    | analysis parallel proof compiler artifact hugging_face ops ir
"""
# Packages of others that some layers do without (which one file may import others is a rule of `test_house_rules`).
NEVER = {
    "torch": "ir jobs costmodel problem schedules placement solvers formulation",
    "networkx": "ground ir jobs runtime",
}


@dataclass(frozen=True)
class Layer:
    """A row of the table."""

    name: str
    holds: tuple[str, ...]
    may: tuple[str, ...]


def read(table: str) -> list[Layer]:
    """The rows of a table; a line without a name goes on with the row before it."""
    rows: list[tuple[str, list[str], list[str]]] = []
    for line in table.splitlines():
        if line and not line.startswith("#"):
            name, holds, may = (cell.strip() for cell in (line + "||").split("|")[:3])
            if name:
                rows.append((name, [], ["ground"]))
            rows[-1][1].extend(holds.split())
            rows[-1][2].extend(may.split())
    return [Layer(name, tuple(holds), tuple(may) if name != "ground" else ()) for name, holds, may in rows]


LAYERS = read(TABLE)
MOST_FILES = 16
LARGE = {"autopar/ops/library"}  # one file per family of operators


@dataclass(frozen=True)
class Import:
    """An import of a file of ours."""

    source: Source
    line: int
    target: Source

    def __str__(self) -> str:
        return f"{self.source.path}, line {self.line}: {self.target.module}"


@cache
def product() -> dict[str, Source]:
    """Every file of the product by its module."""
    return {source.module: source for source in shipped()}


def imports_of(source: Source, modules: dict[str, Source]) -> Iterator[Import]:
    """What a file imports of these modules, and those that it names in strings."""
    named = [(line, text) for line, text in source.strings() if text.startswith("autopar.")]
    wanted = [(line, modules.get(name) or modules.get(name.rpartition(".")[0])) for line, name in source.imports]
    wanted += [(line, modules.get(name)) for line, name in named]
    for line, target in wanted:
        if target is not None and target.path != source.path:
            yield Import(source, line, target)


@cache
def layer_of(path: str) -> int:
    """The place of a file's layer in the table: that of the file, or of its folder."""
    for wanted in (path, path.rpartition("/")[0]):
        for place, layer in enumerate(LAYERS):
            if wanted in layer.holds:
                return place
    raise AssertionError(f"{path} stands in no layer of the table")


def forbidden(one: Import) -> bool:
    """Whether the table does not say that a file may import another."""
    own, other = layer_of(one.source.path), layer_of(one.target.path)
    return own != other and LAYERS[other].name not in LAYERS[own].may


def circle(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """A circle among these arrows; empty where there is none."""
    graph: dict[str, set[str]] = defaultdict(set)
    for one, other in pairs:
        graph[one].add(other)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@cache
def imports() -> list[Import]:
    return [one for source in product().values() for one in imports_of(source, product())]


def test_no_row_names_one_above_it():
    for place, layer in enumerate(LAYERS):
        before = {one.name for one in LAYERS[:place]}
        assert set(layer.may) <= before, f"{layer.name} may import what stands beside or above it"


def test_no_import_but_those_of_the_table():
    assert not [str(one) for one in imports() if forbidden(one)]


def test_no_circle():
    assert not circle((one.source.path, one.target.path) for one in imports())
    layers = {(layer_of(one.source.path), layer_of(one.target.path)) for one in imports()}
    assert not circle((a, b) for a, b in layers if a != b)


def test_layers_do_without_some_packages():
    for source in product().values():
        layer = LAYERS[layer_of(source.path)].name
        layer = "runtime" if source.path.startswith("runtime/") else layer
        for line, name in source.imports:
            assert layer not in NEVER.get(name.split(".")[0], "").split(), f"{source.path}, line {line}: {name}"


def made(path: str, text: str) -> list[Import]:
    """The imports of a made-up file."""
    return list(imports_of(Source(path, text), product()))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("autopar/ir/a.py", "from autopar.compiler import compile\n"),
        ("autopar/ir/a.py", "def f():\n    import autopar.planning.planner\n"),
        (
            "runtime/grid/a.py",
            "if TYPE_CHECKING:\n    from autopar.ir.plan import Plan\n    from autopar.capture import Captured\n",
        ),
        ("runtime/primitives/a.py", "from ..session import inputs\n"),
        ("costmodel/a.py", "from autopar import codegen\n"),
        ("partitioner/solvers/a.py", "importlib.import_module('autopar.ir.graph')\n"),
        ("autopar/jobs/a.py", "line = ['-m', 'autopar.runtime.training.train']\n"),
        ("runtime/session/a.py", "import autopar.runtime\n"),
    ],
)
def test_the_table_objects(path: str, text: str):
    assert any(map(forbidden, made(path, text)))


def test_what_the_table_allows_passes():
    text = "from autopar.errors import CommError\nfrom .primitives import copy\nlog = logging.getLogger('autopar.compile')\n"
    assert not any(map(forbidden, made("runtime/session/a.py", text)))


def test_a_circle_is_found():
    assert circle([("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")])
    assert not circle([("a", "b"), ("b", "c"), ("a", "c")])


def test_no_folder_is_crowded():
    count: dict[str, int] = defaultdict(int)
    for folder in (*SHIPPED, *OTHERS):
        for source in sources(folder):
            count[source.path.rpartition("/")[0]] += 1
    assert not {folder: n for folder, n in count.items() if n > MOST_FILES and folder not in LARGE}


def test_no_module_hides_a_name_of_the_package():
    (package,) = [source for source in shipped() if source.path == "autopar/__init__.py"]
    named = [x for x in package.tree.body if isinstance(x, ast.Assign) and ast.unparse(x.targets[0]) == "__all__"]
    public = ast.literal_eval(named[0].value)
    assert not {f"autopar.{name}" for name in public} & set(product())


def test_a_class_name_means_one_thing():
    places: dict[str, list[str]] = defaultdict(list)
    for source in shipped():
        for node in source.nodes:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(source.path)
    assert not {name: paths for name, paths in places.items() if len(paths) > 1}


def names_of(source: Source) -> set[str]:
    """The names that a module has at its top, those of types alone too."""
    found = set()
    for node in source.nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def leads_somewhere(name: str) -> bool:
    """Whether a dotted name is a module of ours or a name that one has, whatever follows, or an operator of ours."""
    parts = name.split(".")
    if name in operators():
        return True
    for end in range(len(parts), 0, -1):
        module = product().get(".".join(parts[:end]))
        if module is not None:
            return end == len(parts) or parts[end] in names_of(module)
    return False


@cache
def operators() -> set[str]:
    """The targets of our own operators, and ``autopar.x``, which stands for any."""
    texts = {text for source in sources("autopar") for _, text in source.strings() if "/library/" in source.path}
    return {text for text in texts if text.startswith("autopar.")} | {"autopar.x"}


def named_in_texts() -> Iterator[tuple[str, str]]:
    """Where something of ours is named by its dotted name: in docstrings, and between backticks of a document."""
    dotted = r"autopar(?:\.[A-Za-z_]\w*)+"
    for source in shipped():
        for line, text in source.docstrings():
            yield from ((f"{source.path}, line {line}", name) for name in re.findall(rf"(?<![\w./-]){dotted}", text))
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for name in re.findall(rf"`({dotted})[`(]", path.read_text(encoding="utf-8")):
            yield path.name, name


def test_names_in_texts_lead_somewhere():
    assert not [f"{where}: {name}" for where, name in named_in_texts() if not leads_somewhere(name)]
    assert not leads_somewhere("autopar.ir.nothing")
    assert not leads_somewhere("autopar.ir.graph.Nothing")
