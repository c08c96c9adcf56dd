# make run | test | lint | lock | notebooks | clean. Everything is set up on first
# use; it takes Python 3.11 to 3.13, make and git.
# make run ARGS='--config.seeds=0,1'
PYTHON ?=
VENV ?= .venv
CONFIG ?= configs/cuts_digits.py
ARGS ?=
READY := $(VENV)/.ready
RUN := $(VENV)/bin/python -m

# A name on PATH may be a shim that fails, or a Python without venv: run it.
PYTHONS := $(or $(PYTHON),python3.13 python3.12 python3.11 python3 python)
FITS := import sys, venv, ensurepip; \
  sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))

.PHONY: run test lint lock notebooks clean setup
.DELETE_ON_ERROR:

run: $(READY)
	@$(RUN) cmu_jax.main --config=$(CONFIG) $(ARGS)

test: $(READY)
	@$(RUN) pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(READY)
	@$(RUN) ruff format --check .
	@$(RUN) ruff check .
	@$(RUN) mypy

lock: $(READY)
	@$(RUN) pip install --quiet uv
	@$(RUN) uv pip compile --quiet --universal --python-version 3.11 \
	  --extra dev --no-header --upgrade pyproject.toml -o requirements.lock

# The text is the source; the notebooks beside it are for Colab.
notebooks: $(READY)
	@$(RUN) jupytext --quiet --update --to ipynb notebooks/*.py

clean:
	rm -rf $(VENV) build dist .cache .pytest_cache .mypy_cache .ruff_cache \
	  .hypothesis *.egg-info

setup: $(READY)

# The stamp comes last, so that a set-up which was interrupted starts again.
$(READY): requirements.lock pyproject.toml
	@set -e; python=; \
	for name in $(PYTHONS); do \
	  if "$$name" -c '$(FITS)' >/dev/null 2>&1; then python=$$name; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "error: no Python 3.11 to 3.13 with venv among: $(PYTHONS);" \
	    "install one or give PYTHON=/path/to/python3.12" >&2; exit 1; \
	fi; \
	if [ ! -e $@ ]; then \
	  echo "making $(VENV) with $$($$python --version)"; \
	  "$$python" -m venv --clear $(VENV); \
	fi; \
	rm -f $@; \
	echo 'installing requirements.lock (a minute or two)'; \
	$(RUN) pip install --disable-pip-version-check -q -r requirements.lock; \
	$(RUN) pip install --disable-pip-version-check -q --no-deps -e .; \
	touch $@
