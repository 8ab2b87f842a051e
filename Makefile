# train and test create the virtual environment first (Python 3.11 or newer). ARGS passes flags on:
#   make train ARGS="--env HalfCheetahDir --seed 1"

VENV ?= .venv
PYTHON ?= python3
ARGS ?=
BIN := $(VENV)/bin
TYPES := build/types

.PHONY: train test test-all test-fast test-gpu-cpu lint types links docs docs-serve check-gpu bench clean

train: $(VENV)/.installed
	$(BIN)/python -m maml_rl.train --env HalfCheetahVel $(ARGS)

# Two processes on every machine, because tests start training runs. One thread of torch in each: the
# networks of the tests are small, so that several threads would mostly wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# Without the tests marked thorough, which take as long as all others: test-all runs them. Without
# the tests of the engine on MuJoCo Warp, which need the extra gpu: test-gpu-cpu runs them.
test: $(VENV)/.installed
	$(MAKE) --jobs 2 lint types docs
	$(PYTEST) -m "not thorough and not warp" $(ARGS)

test-all: $(VENV)/.installed
	$(MAKE) --jobs 2 lint types docs
	$(PYTEST) -m "not warp" $(ARGS)

# The tests that are not marked slow, without lint, types and documents.
test-fast: $(VENV)/.installed
	$(PYTEST) -m "not slow and not thorough and not warp" $(ARGS)

# The tests of the engine on MuJoCo Warp, on its CPU backend. The first run compiles the kernels.
test-gpu-cpu: $(VENV)/.installed-gpu
	$(BIN)/python -m pytest -m warp $(ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed links
	MYPYPATH=$(TYPES) $(BIN)/mypy -p maml_rl -p maml_envs

# The package maml_envs is in envs/; links with the import names let mypy and mkdocs find both.
links:
	mkdir -p $(TYPES)
	ln -sfn ../../maml_rl $(TYPES)/maml_rl
	ln -sfn ../../envs $(TYPES)/maml_envs

# The documentation site, in build/site. A link that leads nowhere is an error.
docs: $(VENV)/.installed links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: $(VENV)/.installed links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve $(ARGS)

check-gpu: $(VENV)/.installed-gpu
	$(BIN)/python benchmarks/check_gpu.py $(ARGS)

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/sampling.py
	$(BIN)/python benchmarks/meta_iteration.py

# Python compiles what it imports: to compile every module here would double the time.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("maml-rl needs Python 3.11 or newer; \
	this is " + sys.version.split()[0] + ". Choose another one: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

$(VENV)/.installed-gpu: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e ".[dev,gpu]"
	touch $@

clean:
	rm -rf $(VENV) build
