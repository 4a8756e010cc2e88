# make train   creates .venv and trains: CONFIG=configs/air.py, WORKDIR=runs/mine,
#              ARGS="--config.estimator=enumerate --config.seed=1"
# make test    creates .venv and checks lint, types and tests: ARGS="-k metrics" goes to pytest
#
# PYTHON=python3.12 chooses the interpreter of a new .venv, REQUIREMENTS=requirements-cpu.txt the
# set of packages (with CUDA where an NVIDIA driver answers).

CONFIG ?= configs/dair.py
WORKDIR ?= runs/$(basename $(notdir $(CONFIG)))
ARGS ?=

ifndef PYTHON
PYTHON := $(shell for python in python3.11 python3; do \
	$$python -c "import sys; sys.exit(sys.version_info < (3, 11))" 2> /dev/null && \
	echo $$python && break; done)
endif
ifndef REQUIREMENTS
REQUIREMENTS := $(shell nvidia-smi -L > /dev/null 2>&1 && echo requirements.txt || \
	echo requirements-cpu.txt)
endif

VENV_PYTHON := .venv/bin/python
INSTALLED := .venv/.installed-$(REQUIREMENTS)

.PHONY: train test venv

train: venv
	$(VENV_PYTHON) -m air_jax.main --config=$(CONFIG) --workdir=$(WORKDIR) $(ARGS)

test: venv
	$(VENV_PYTHON) -m ruff check
	$(VENV_PYTHON) -m ruff format --check
	$(VENV_PYTHON) -m mypy
	$(VENV_PYTHON) -m pytest --numprocesses 2 --dist loadfile $(ARGS)

venv: $(INSTALLED)

# Debian's python3 may come without ensurepip; its own pip then installs one.
$(INSTALLED): requirements.txt requirements-cpu.txt
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 found; give one with PYTHON=..."; exit 1; }
	test -x .venv/bin/pip || $(PYTHON) -m venv .venv || \
		{ $(PYTHON) -m venv --without-pip .venv && \
		$(PYTHON) -m pip --python $(VENV_PYTHON) install pip; }
	$(VENV_PYTHON) -m pip install -r $(REQUIREMENTS)
	touch $@
