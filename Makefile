# Two commands: `make demo` shows it working, `make test` proves it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One BLAS thread per process: two threads on a busy machine made a 2500 x 2500 Cholesky 6 to 8 times slower.
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: demo test lint clean

demo: $(VENV)/.installed-plot
	$(BIN)/ntk-dist demo --out demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not ray"
	$(BIN)/python -m pytest -m ray  # one cluster at a time on this machine

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) demo

$(VENV)/.installed-%: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$*]'
	touch $@
