# `make demo` and `make test` each set up everything they need on a fresh machine.
PYTHON   ?= python3
PIP_ARGS ?=
BIN      := .venv/bin
# Several workers of one thread each, every file in one of them, those that take longest first.
WORKERS  ?= 2
PYTEST   := OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: install demo test test-fast check docs clean

install: .venv/core.stamp

demo: install
	$(BIN)/minigpt demo

test: .venv/dev.stamp
	$(PYTEST)

test-fast: .venv/dev.stamp
	$(PYTEST) -m "not slow"

check: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check --python .venv
	$(MAKE) test

# Pages that a browser opens: site/index.html.
docs: .venv/docs.stamp
	$(BIN)/zensical build --strict

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/core.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e .
	touch $@

.venv/dev.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e ".[dev]"
	touch $@ .venv/core.stamp .venv/docs.stamp

.venv/docs.stamp: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e ".[docs]"
	touch $@ .venv/core.stamp

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis .cache site dist build
