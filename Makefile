# The first target that needs it makes .venv from the pinned versions; all that is wanted is Python 3.11 or newer.
# PYTHON=/path/to/python chooses the interpreter that .venv is made with.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test soak check fix one bench zoo docs new clean

test soak check one: export OMP_NUM_THREADS ?= 1
BIN := .venv/bin
READY := .venv/.ready
PEERS := .venv/.peers
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest
PARALLEL := -n auto --maxprocesses 8 --dist worksteal

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

run: $(READY) ## train SAC on HalfCheetah for a few minutes, and film it before and after (SEED=1: another seed)
	@run=runs/cheetah-$$(date +%Y%m%d-%H%M%S); \
	echo "A two-legged cheetah learns to run, by Soft Actor-Critic: 40,000 steps, two to four minutes on two cores."; \
	echo "For the first 10,000 steps its return stays near 0. That is as it should be: 5,000 random actions come first, then the"; \
	echo "critics must learn what actions are worth before the policy can follow them. Above 2,000 it visibly runs."; \
	echo "Ctrl-C stops it and saves."; echo; \
	$(BIN)/thespis train sac --env HalfCheetah-v5 --steps 40000 --warmup 5000 --lr 1e-3 --batch-size 128 --precision bf16 \
	  --eval-every 4000 --eval-episodes 5 --seed $(or $(SEED),0) --out $$run && \
	echo && echo "Filming the first policy and the last (half a minute) ..." && $(BIN)/thespis report $$run --video && \
	echo "films    $$run/videos" && echo && \
	echo "Open the report in a browser: one page with the curve and both films." && \
	echo "Next, with '. .venv/bin/activate' first (docs/start.md goes on from here):" && \
	echo "  thespis train sac --env Pendulum-v1 --steps 10000 --out runs/first     an easier task, in a minute or two" && \
	echo "  thespis resume $$run --steps 100000                go on with the cheetah" && \
	echo "  thespis train sac --help                                               every option"

test: $(READY) ## the whole test suite
	@$(PYTEST) $(PARALLEL)

soak: $(READY) ## the promises of docs/reliability.md, tested for an hour; figures to bench/results/reliability
	@THESPIS_RECORD=1 $(PYTEST) -m soak tests/soak

check: $(READY) ## format, lint, types and the import rule; changes nothing
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(PYTEST) tests/layers

fix: $(READY) ## format, mend what the linter can, and write the pages of options and functions anew
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/python tools/reference.py

one: $(READY) ## the tests of one algorithm: make one A=sac
	@test -n "$(A)" || { echo "which algorithm? make one A=sac" >&2; exit 2; }
	@$(PYTEST) tests/papers/test_$(A).py tests/contract -k "test_$(A) or [$(A)] or [$(A)-"

bench: $(PEERS) ## throughput beside Stable-Baselines3 and SBX
	@$(BIN)/python bench/throughput.py --peers thespis:1 thespis:2 sb3:1 sb3:2 sbx:1 sbx:2

zoo: $(READY) ## the policies of the bench's runs that are under runs/, with their cards and an index, in zoo/
	@$(BIN)/python tools/zoo.py

docs: $(READY) ## the documentation site, in site/; fails where a link leads nowhere
	@$(BIN)/python tools/pages.py

new: $(READY) ## an algorithm's file, test and bench row: make new A=name [F=continuous]
	@$(BIN)/python tools/new.py "$(A)" "$(or $(F),continuous)"

clean: ## remove .venv, caches and builds; runs/ stays
	@rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist site *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# .ready is there only while .venv is whole: an install that was interrupted starts afresh.
$(READY): pyproject.toml constraints.txt
	@if [ ! -f $@ ]; then \
	  for p in $(PYTHON) python3.11 python3.12 python3.13 python3.14 python3 python; do \
	    "$$p" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && found=$$p && break; \
	  done; \
	  test -n "$$found" || { echo "Thespis needs Python 3.11 or newer with its venv module; none is on the PATH (or name one: make PYTHON=/path/to/python)" >&2; exit 1; }; \
	  "$$found" -m venv --clear .venv; \
	fi
	@rm -f $@ $(PEERS)
	@echo "Installing the pinned versions into .venv (torch is large: this takes a minute or more, once)"
	@$(PIP) --editable ".[dev,docs,video,data,ray,language,sweep,onnx,hub,dashboard,robotics,dm-control,agents,worlds,minigrid]"
	@touch $@

$(PEERS): $(READY)
	@$(PIP) --editable ".[bench]"
	@touch $@
