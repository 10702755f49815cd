# Everything a newcomer needs: `make demo` and `make test`. Both install into .venv first, once.
#
#   make demo TORCH=cpu    takes torch's CPU wheels, for machines without an NVIDIA GPU
#   PYTHON=python3.12      another interpreter, 3.11 or newer
#   CONSTRAINTS=lowest     the oldest releases that setup.cfg allows, in a .venv-lowest of their own

PYTHON ?= python3
CONSTRAINTS ?= newest
VENV ?= .venv$(if $(filter lowest,$(CONSTRAINTS)),-lowest)
TORCH ?= default
BIN := $(VENV)/bin
RELEASES := constraints$(if $(filter lowest,$(CONSTRAINTS)),-lowest).txt

# Where this is set, each process that a test starts would compile all that it imports.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo install dev check test test-all test-crash test-soak bench lint docs dist address clean

demo: $(VENV)/installed
	$(BIN)/tune-sam run gcn --name demo --dataset digits --trials 6 --epochs 10 --seeds 3 --sample 512

install: $(VENV)/installed

dev: $(VENV)/dev

# Everything that a change has to pass.
check:
	.ci/run

test: $(VENV)/dev
	$(BIN)/python -m pytest

# Also the slow tests, and those of the real data sets in the folder that TUNE_SAM_DATA names. In one go with the quick
# ones, which share their homes; in a process more than `make test` has, for some of the slow ones wait.
test-all: $(VENV)/dev
	$(BIN)/python -m pytest -n 3 -m "" --durations=30

# A whole study that is killed at KILLS random moments and ends as one that is not: half an hour, or hours where the
# machine has other work.
KILLS ?= 100
test-crash: $(VENV)/dev
	PYTHONPATH=tests $(BIN)/python -m faults.sweep --kills $(KILLS)

# One home that grows to TRIALS trials: what grows with them, and by how much a trial; about ten minutes.
TRIALS ?= 300
test-soak: $(VENV)/dev
	PYTHONPATH=tests $(BIN)/python -m faults.soak --trials $(TRIALS)

# Every program of benchmarks/ beside its peer, with a JSON file of each in BENCH: under twenty minutes on two idle
# cores. DATA is the folder that holds Mutagenicity; without it, the programs that need that are left out.
BENCH ?= bench
DATA ?= $(TUNE_SAM_DATA)
PARTS := recipe replay turns pyhessian_peer
# These search for half an hour; by hand.
LONG := grid
PROGRAMS := $(filter-out $(PARTS) $(LONG),$(basename $(notdir $(wildcard benchmarks/*.py))))
OF_DATA := $(foreach one,$(PROGRAMS),$(if $(shell grep -e '"--data"' benchmarks/$(one).py),$(one)))
bench: $(VENV)/bench
	@mkdir -p $(BENCH)
	@for one in $(filter-out $(OF_DATA),$(PROGRAMS)); do \
	  echo "== $$one"; $(BIN)/python benchmarks/$$one.py --output $(BENCH)/$$one.json || exit 1; done
	@for one in $(OF_DATA); do \
	  if [ -z "$(DATA)" ]; then echo "== $$one is left out: say DATA=DIR"; continue; fi; \
	  echo "== $$one"; $(BIN)/python benchmarks/$$one.py --data "$(DATA)" --output $(BENCH)/$$one.json || exit 1; done

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# The site, in site/: a warning, such as a link that leads nowhere, is an error. It reads the code and needs none of it.
docs: $(VENV)-docs/installed
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build

# The wheel and the sdist, in dist/. The address of the repository goes into their metadata, and makes the README's links
# whole.
dist: export TUNE_SAM_REPOSITORY = $(REPOSITORY)
dist: address $(VENV)-dist/installed
	$(VENV)-dist/bin/python -m build --outdir dist

address:
	@[ -n "$(REPOSITORY)" ] || \
	  { echo "Say where the repository is: make dist REPOSITORY=https://github.com/OWNER/tune_sam"; exit 2; }

clean:
	rm -rf $(VENV) $(VENV)-docs $(VENV)-dist site dist

$(VENV)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "tune_sam needs Python 3.11 or newer; name one, as in: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
ifeq ($(TORCH),cpu)
	@echo "Installing into $(VENV). This fetches about 0.5 GB (torch for the CPU); it takes some minutes."
else
	@echo "Installing into $(VENV). This fetches about 3.3 GB, most of it torch with CUDA; it takes some minutes."
	@echo "Without an NVIDIA GPU, stop here and say: make $(MAKECMDGOALS) TORCH=cpu (about 0.5 GB)."
endif
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# uv knows where torch's CPU wheels are; pip, which installs the rest, then finds torch already there.
$(VENV)/torch: $(VENV)/python $(RELEASES)
ifeq ($(TORCH),cpu)
	@$(BIN)/pip install --quiet uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend cpu -c $(RELEASES) torch torchvision
endif
	@touch $@

$(VENV)-docs/installed: setup.cfg
	@$(PYTHON) -m venv $(VENV)-docs
	@$(VENV)-docs/bin/pip install --quiet $$($(PYTHON) -c \
	  'import configparser; c = configparser.ConfigParser(); c.read("setup.cfg"); print(c["options.extras_require"]["docs"])')
	@touch $@

$(VENV)-dist/installed:
	@$(PYTHON) -m venv $(VENV)-dist
	@$(VENV)-dist/bin/pip install --quiet build
	@touch $@

$(VENV)/installed: $(VENV)/torch setup.cfg
	@$(BIN)/pip install --quiet -c $(RELEASES) -e '.[all]'
	@touch $@

$(VENV)/dev: $(VENV)/torch setup.cfg
	@$(BIN)/pip install --quiet -c $(RELEASES) -e '.[dev]'
	@touch $@ $(VENV)/installed

$(VENV)/bench: $(VENV)/dev
	@$(BIN)/pip install --quiet -c $(RELEASES) -e '.[bench]'
	@touch $@
