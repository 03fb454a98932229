# `make demo` and `make test` set up what they need in .venv (Python >= 3.11 and make are all they ask for).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOCK := requirements/dev.lock
JOBS ?= 3

.PHONY: setup demo bench test check format lock docs up up-demo down clean help

help:
	@echo "make demo    the main job on the embedded defaults: three runs of 'article', traced, metered, logged"
	@echo "make bench   what it costs on this machine, against the bare SDK (about 15 minutes; ARGS=--quick: one)"
	@echo "make up      the whole stack with docker compose: agentobs, Jaeger, Prometheus, Loki, Grafana, Alertmanager"
	@echo "make up-demo the same on a simulated API, with traffic: costs nothing"
	@echo "make down    stop the stack; its data stays"
	@echo "make test    all tests (what the machine lacks is skipped with the reason)"
	@echo "make check   lint, types, import contracts, generated files"
	@echo "make format  ruff's formatter and safe fixes"
	@echo "make lock    resolve the development environment anew"
	@echo "make docs    write the generated documents again"

setup: $(STAMP)

$(STAMP): pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python {v[0]}.{v[1]} found, 3.11 or newer needed: make PYTHON=python3.11 …")'
	@test -x $(BIN)/python || { echo "setting up $(VENV) (once, about a minute)"; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(LOCK)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -m compileall -q agentobs
	@touch $@

demo: $(STAMP)
	@$(BIN)/agentobs demo

bench: $(STAMP)
	@$(BIN)/agentobs bench $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -m generated

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)
	$(BIN)/python -m agentobs.setting_docs > docs/settings.md
	$(BIN)/python -m agentobs.api > docs/openapi.json
	$(BIN)/python -m dashboards

# The image is made from runtime.lock and build.lock, whose versions are those of the development environment.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --custom-compile-command 'make lock'
EXTRAS = --extra bedrock --extra postgres --extra vertex

lock:
	$(BIN)/python -m pip install --quiet uv
	$(COMPILE) $(EXTRAS) pyproject.toml requirements/dev.in -o $(LOCK)
	$(COMPILE) $(EXTRAS) pyproject.toml -c $(LOCK) -o requirements/runtime.lock
	$(COMPILE) requirements/build.in -c $(LOCK) -o requirements/build.lock

# Profile and address go together: what is sent to the simulator must not go to the real API.
DEMO := COMPOSE_PROFILES=demo ANTHROPIC_BASE_URL=http://simulator:9100
NEED_DOCKER = @docker compose version >/dev/null 2>&1 || { echo "needs Docker with its compose plugin (docs.docker.com/compose/install); without it: docs/install.md, 'With systemd'" >&2; exit 1; }; \
	docker info >/dev/null 2>&1 || { echo "the Docker engine does not answer: start it, and see that this user may use it (docker info says more)" >&2; exit 1; }
STARTED = @echo "Grafana http://localhost:3000 (admin, deploy/secrets/grafana_admin_password) · agentobs http://localhost:8080 · Jaeger http://localhost:16686"

up:
	$(NEED_DOCKER)
	@deploy/secrets/make
	docker compose --profile demo rm --stop --force traffic simulator
	docker compose up --detach --build
	$(STARTED)

up-demo:
	$(NEED_DOCKER)
	@deploy/secrets/make
	$(DEMO) docker compose up --detach --build
	$(STARTED)

down:
	$(NEED_DOCKER)
	docker compose --profile demo down

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* htmlcov
