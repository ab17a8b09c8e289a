PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: test check demo run bench fuzz soak screenshots wheel wheelhouse package lock clean

demo: $(VENV)/demo
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

# Kills, wrong answers of Slack and examples, all of what the suite tries a few of: an hour or more.
soak: $(VENV)/dev
	$(BIN)/python -m tests.soak
	LATE_ACKS=0.06 $(BIN)/pytest tests/test_create.py tests/test_rotate.py tests/test_revoke.py tests/test_list_and_delete.py tests/test_suspend_and_expiry.py
	HYPOTHESIS_PROFILE=soak $(BIN)/pytest tests/test_typed.py tests/test_rules.py tests/test_model.py

screenshots: $(VENV)/dev
	$(BIN)/python -m tests.screenshots

# setuptools comes with its hash from a lock, and not from the network at each build.
$(VENV)/run: requirements.lock requirements-build.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes -r requirements-build.lock
	$(BIN)/pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/demo: requirements-demo.lock $(VENV)/run
	$(BIN)/pip install --quiet --require-hashes -r requirements-demo.lock
	touch $@

$(VENV)/dev: requirements-dev.lock $(VENV)/run
	$(BIN)/pip install --quiet --require-hashes -r requirements-dev.lock
	touch $@

$(VENV)/package: requirements-package.lock $(VENV)/dev
	$(BIN)/pip install --quiet --require-hashes -r requirements-package.lock
	touch $@

# dist/ gets the wheel, and wheelhouse/ everything that it needs, for machines without a network.
wheel: $(VENV)/run
	rm -rf build dist
	$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

wheelhouse: wheel
	$(BIN)/pip download --quiet --require-hashes -r requirements-demo.lock --dest wheelhouse
	cp dist/*.whl wheelhouse

# Installs the wheel in every way that docs/operating.md names, and scans with real scanners: minutes, so not in `make test`.
package: $(VENV)/package wheelhouse
	$(BIN)/pytest --numprocesses=0 --timeout=900 tests/package.py

LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links

lock:
	$(LOCK) -o requirements.lock pyproject.toml
	$(LOCK) --extra demo -c requirements.lock -o requirements-demo.lock pyproject.toml
	$(LOCK) --extra dev -c requirements-demo.lock -o requirements-dev.lock pyproject.toml
	$(LOCK) --extra package -c requirements-dev.lock -o requirements-package.lock pyproject.toml
	sed -n 's/^requires = \["\(setuptools.*\)"\]/\1/p' pyproject.toml | $(LOCK) -o requirements-build.lock -

clean:
	rm -rf $(VENV) build dist wheelhouse
