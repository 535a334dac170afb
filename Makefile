# `make run` and `make test` need python3 (3.11 or later) and nothing else: the first of them makes .venv.
# Another interpreter: make PYTHON=python3.12 run

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One more than there are cores: tests that start ranks wait for them.
WORKERS = $(shell $(PYTHON) -c 'import os; print(1 + (os.cpu_count() or 1))')
STAMP := $(VENV)/installed
FOLDERS := codegen configs costmodel partitioner runtime
MYPY := $(BIN)/mypy .typing/autopar | sed -E 's\#\.typing/autopar/($(subst $() ,|,$(FOLDERS)))/\#\1/\#; s\#\.typing/autopar/\#autopar/\#'

# Ranks share the cores: one thread each.
export OMP_NUM_THREADS := 1
# Tests start many processes: without bytecode on disk each of them compiles all sources again.
test zoo: export PYTHONDONTWRITEBYTECODE :=

.PHONY: help run test zoo opdb families lint style types links format operators benchmark clean

help:
	@echo "make run        compile examples/gpt2.py for two ranks, train it, compare it with the sequential model"
	@echo "make test       ruff, then the tests with the rules of the house among them, and mypy beside them"
	@echo "make zoo        what \`make test\` leaves out: every model on every grid (of 84 pairs it takes 5), more jobs of ranks, benchmarks on tiny models"
	@echo "make opdb       PyTorch's operator database, every letter, for docs/compatibility.md; then 3000 random programs"
	@echo "make families   a small model of every family of timm, torchvision and transformers: hours; writes docs/compatibility.md"
	@echo "make lint       ruff, ruff format, mypy --strict, and the rules of the house"
	@echo "make format     let ruff mend what it can"
	@echo "make operators  write docs/operators.md from the records of the operators"
	@echo "make benchmark  step times beside one process, DDP, DTensor and hand-written MPI"
	@echo "make clean      remove what make made"

run: $(STAMP)
	$(BIN)/autopar compile examples/gpt2.py --grid 2 -o build
	$(BIN)/autopar run build --steps 60 --compare 3

# mypy takes a core for 20 seconds, in which the workers mostly collect; what it says comes last.
test: style links
	($(MYPY)) >.typing/said 2>&1 & mypy=$$!; failed=; \
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not zoo" --durations=25 || failed=" tests"; \
	wait $$mypy || failed="$$failed types"; \
	cat .typing/said; \
	test -z "$$failed" || { echo "make test: failed:$$failed" >&2; exit 1; }

zoo: $(STAMP)
	$(BIN)/python -m pytest -q -n auto --dist loadfile -m zoo

opdb: $(STAMP)
	$(BIN)/python -m benchmarks.compatibility.opdb --write
	$(BIN)/python -m benchmarks.compatibility.random_programs --count 3000

families: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[families]'
	mkdir -p build && $(BIN)/python -m benchmarks.compatibility.families --out build/families.jsonl --write

lint: style types
	$(BIN)/python -m pytest -q tests/project/test_house_rules.py

style: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: links
	$(MYPY)

# The folders beside autopar/ are installed as autopar.runtime and so on: mypy sees them there through links.
links: $(STAMP)
	rm -rf .typing && mkdir -p .typing/autopar
	for entry in autopar/* $(FOLDERS); do ln -s "../../$$entry" ".typing/autopar/$$(basename $$entry)"; done

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

operators: $(STAMP)
	$(BIN)/python -W ignore -m autopar.analysis.operator_catalogue docs/operators.md

benchmark: $(STAMP)
	$(BIN)/python -m benchmarks.step_time

clean:
	rm -rf $(VENV) .typing .mypy_cache .ruff_cache build

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("autopar needs Python 3.11 or later: make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt setuptools
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $(STAMP)
