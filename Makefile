# Every target installs its requirements in .venv, the first time only.
#   make test PYTHON=python3.13      with another Python

PYTHON ?= python3

VENV := .venv
BIN := $(VENV)/bin
# -qq prints errors only. Without a terminal, pip must not prompt.
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-slow lint format web clean

help:  ## Show these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.demo  ## Transcribe and score the bundled recordings (no torch)
	@echo '$$ tynda models list'
	@$(BIN)/tynda models list
	@echo
	@echo '$$ tynda evaluate whisper-tiny.en demo/manifest.jsonl --show'
	@$(BIN)/tynda evaluate whisper-tiny.en demo/manifest.jsonl --show

# Two processes at a time: the tests of one file share what they prepare, and stay together.
test: lint  ## Run linter, type checker and all tests except the slow ones
	@$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(VENV)/.test  ## Run the slow tests only
	@$(BIN)/python -m pytest -m slow

lint: $(VENV)/.test  ## Check style and types, without changes
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m mypy

format: $(VENV)/.test  ## Sort imports, apply the linter's fixes, format
	@$(BIN)/python -m ruff check --fix .
	@$(BIN)/python -m ruff format .

# The built files are in the package, so that nobody else needs these programs.
web: $(VENV)/.made  ## Build the web app (needs emscripten and Node.js 20.19 or later)
	emcmake cmake -S native -B build/wasm -DTYNDA_TESTS=ON
	cmake --build build/wasm --target tynda_engine tynda_engine_threads
	cp build/wasm/tynda_engine.wasm web/engine/engine.wasm
	cp build/wasm/tynda_engine_threads.wasm web/engine/engine-threads.wasm
	npm --prefix web install --no-audit --no-fund
	npm --prefix web run check
	npm --prefix web run build
	$(BIN)/python web/sources.py > src/tynda/serve/web/sources.txt

clean:  ## Remove .venv, caches and builds; keep runs/
	rm -rf $(VENV) build dist web/build web/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests bench -type d -name __pycache__ -prune -exec rm -rf {} +

# Stamps are written last, so that an interrupted installation is resumed.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'error: tynda needs Python 3.11 or later: make PYTHON=python3.11' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo 'error: $(PYTHON) cannot make virtual environments: install its venv package' \
	    '(on Debian and Ubuntu: python3-venv)' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

NATIVE := $(wildcard native/CMakeLists.txt native/src/*)

$(VENV)/.demo: pyproject.toml $(NATIVE) $(VENV)/.made
	@echo 'compiling and installing tynda into $(VENV) ...' >&2
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.test: pyproject.toml requirements-dev.txt $(NATIVE) $(VENV)/.made
	@echo 'compiling tynda, installing it and its test tools into $(VENV) (torch is large) ...' >&2
	@$(INSTALL) -e '.[dev]' -r requirements-dev.txt
	@$(INSTALL) --no-deps openai-whisper==20250625  # its dependencies include a GPU compiler, which is not needed
	@touch $(VENV)/.demo $@
