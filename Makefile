PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: test check demo run bench fuzz screenshots lock clean

demo: $(VENV)/run
	$(BIN)/smtp-bot demo

test: $(VENV)/dev check
	$(BIN)/pytest

check: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

run: $(VENV)/run
	$(BIN)/smtp-bot run

bench: $(VENV)/dev
	$(BIN)/python -m tests.bench
	$(BIN)/python -m tests.mail_bench
	$(BIN)/python -m tests.page_bench

fuzz: $(VENV)/dev
	$(BIN)/python -m tests.mail_fuzz

screenshots: $(VENV)/dev
	$(BIN)/python -m tests.screenshots

$(VENV)/run: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

$(VENV)/dev: requirements-dev.lock $(VENV)/run
	$(BIN)/pip install --quiet --require-hashes -r requirements-dev.lock
	touch $@

lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	  --no-emit-find-links --extra sandbox -o requirements.lock pyproject.toml
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	  --no-emit-find-links --extra dev -o requirements-dev.lock pyproject.toml

clean:
	rm -rf $(VENV)
