# The only doors. Each sets up what it needs, once; Python >= 3.11 with venv is all it asks for.

.PHONY: help demo up test test-clients check chaos soak bench protos docs release-api lock clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# uv installs fast; without it, pip does the same work more slowly.
UV_VERSION := 0.13.9
NEWEST_FIRST := python3.14 python3.13 python3.12 python3.11 python3
SYSTEM_PYTHON := /usr/bin/python3
# Fails of one that will not do. An optimised build, by its flags or as the system's own, goes
# before a newer plain one: an order takes a tenth less CPU.
KIND := import ensurepip, sys, sysconfig; \
	flags = sysconfig.get_config_var("CONFIG_ARGS") or ""; \
	optimised = sys.base_prefix == "/usr" or "--enable-optimizations" in flags; \
	print("optimised" if optimised else "plain"); sys.exit(sys.version_info < (3, 11))
ifndef PYTHON
PYTHON := $(shell for name in $(NEWEST_FIRST) $(SYSTEM_PYTHON); do \
	kind=$$($$name -c '$(KIND)' 2>/dev/null) || continue; \
	plain=$${plain:-$$name}; \
	test $$kind = plain || { optimised=$$name; break; }; done; \
	echo $${optimised:-$$plain})
endif
PYTHON_VERSION := $(if $(PYTHON),$(shell $(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])'))

VENV := .venv
BIN := $(VENV)/bin
# Another Python, or a changed lock, sets up anew; a second run does nothing.
CREATED := $(VENV)/created-with-$(PYTHON_VERSION)
RUNTIME := $(VENV)/installed-runtime
DEV := $(VENV)/installed-dev
# gRPC reports every connection that ends, at its default.
export GRPC_VERBOSITY ?= ERROR
# protoc finds its plugins on PATH.
export PATH := $(CURDIR)/$(BIN):$(PATH)

help:
	@echo "make demo    ten swaps at once through the whole stack, live, and a summary"
	@echo "make up      the whole stack, kept running until Ctrl-C"
	@echo "make test    everything that can be checked"
	@echo "make test-clients"
	@echo "             the examples in other languages, and grpcurl, against a real stack"
	@echo "make check   the part of it that runs nothing: style, types, imports, protos"
	@echo "make chaos   the model check, then a minute of orders while everything breaks"
	@echo "             (SEED= repeats one, DURATION= in seconds, RATE= orders a second)"
	@echo "make soak    a quarter of an hour of orders; the services' memory must come to rest"
	@echo "             (DURATION=, RATE=)"
	@echo "make bench   orders a second, latencies, CPU and memory of every process"
	@echo "             (SCENARIO=throughput,unary SKIP=growth SECONDS=10 ORDERS= BACKLOG= STORED=,"
	@echo "             PROFILE=router: where that service spends its time;"
	@echo "             SCENARIO=routing: choosing routes alone, without a stack)"
	@echo "make protos  generate engine/v1 from protos/"
	@echo "make lock    resolve pyproject.toml into the lock files (UPGRADE=--upgrade: anew)"
	@echo "make clean   remove $(VENV), caches and what the examples built"

demo: $(RUNTIME)
	@$(BIN)/python -m oee demo

up: $(RUNTIME)
	@$(BIN)/python -m oee up

# Most tests wait for something: four files at a time keep two cores busy. tests/conftest.py says
# which go first.
SIDE_BY_SIDE := -n 4 --dist loadfile --no-loadscope-reorder --quiet

test: $(DEV)
	@started=$$(date +%s); \
	$(MAKE) --no-print-directory check && $(BIN)/python -m pytest $(SIDE_BY_SIDE); \
	code=$$?; echo "make test took $$(($$(date +%s) - started)) s"; exit $$code

test-clients: $(DEV)
	@$(BIN)/python -m pytest tests/clients

check: $(DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd protos && ../$(BIN)/buf lint
	cd protos && ../$(BIN)/buf breaking --against released.binpb

LOAD = $(if $(DURATION),--duration $(DURATION)) $(if $(RATE),--rate $(RATE))

chaos: $(DEV)
	@$(BIN)/python -m tests.executor_svc.attempt_model
	@$(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(LOAD)

soak: $(DEV)
	@$(BIN)/python -m tests.chaos.soak $(LOAD)

BENCH = $(if $(SCENARIO),--scenario $(SCENARIO)) $(if $(SKIP),--skip $(SKIP)) \
	$(if $(SECONDS),--seconds $(SECONDS)) $(if $(ORDERS),--orders $(ORDERS)) \
	$(if $(IN_FLIGHT),--in-flight $(IN_FLIGHT)) $(if $(BACKLOG),--backlog $(BACKLOG)) $(if $(STORED),--stored $(STORED)) \
	$(if $(UNARY),--unary) $(if $(PROFILE),--profile $(PROFILE))

bench: $(DEV)
	@$(BIN)/python -m bench $(BENCH)

protos: $(DEV)
	$(BIN)/python protos/generate.py

docs: $(DEV)
	$(BIN)/python -m protos.document

# What was released must go on working: every later proto is held against this image.
release-api: $(DEV)
	cd protos && ../$(BIN)/buf build --exclude-source-info -o released.binpb

COMPILE = $(BIN)/uv pip compile --universal --python-version 3.11 \
	--generate-hashes --custom-compile-command "make lock" --quiet $(UPGRADE)

lock: $(CREATED)
	$(COMPILE) pyproject.toml -o requirements.lock
	$(COMPILE) pyproject.toml --extra embedded -c requirements.lock -o requirements-embedded.lock
	$(COMPILE) pyproject.toml --extra embedded --group dev -c requirements-embedded.lock \
		-o requirements-dev.lock
	$(COMPILE) --group examples -c requirements-dev.lock -o examples/python/requirements.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -rf build examples/*/build examples/node/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The checkout itself is not copied into the environment: a .pth file points to it.
$(CREATED):
	@test -n "$(PYTHON)" || { \
		echo "Python 3.11 or newer with venv is needed: one of $(NEWEST_FIRST) on PATH" >&2; \
		echo "(on Debian and Ubuntu: apt install python3 python3-venv)" >&2; exit 1; }
	@echo "setting up $(VENV) with $(PYTHON) $(PYTHON_VERSION)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION) \
		|| echo "no uv: pip will do"
	@$(BIN)/python -c 'import pathlib, sysconfig; \
		pathlib.Path(sysconfig.get_path("purelib"), "oee.pth").write_text("$(CURDIR)\n")'
	@printf '#!/bin/sh\nexec "%s" -m oee "$$@"\n' "$(CURDIR)/$(BIN)/python" > $(BIN)/oee
	@chmod +x $(BIN)/oee
	@touch $@

define install
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r $(1) 2>$(VENV)/uv.log \
		|| $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(1)
	@touch $@
endef

$(RUNTIME): $(CREATED) requirements-embedded.lock
	$(call install,requirements-embedded.lock)

$(DEV): $(CREATED) requirements-dev.lock
	$(call install,requirements-dev.lock)
	@touch $(RUNTIME)
