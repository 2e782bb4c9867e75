# Every target sets up what it needs by itself. CI runs the same targets (.ci/run).
SHELL := /bin/bash
PY := .venv/bin/python
RULES ?= demo/rules.yaml
ENGINE ?= stand-in

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  ENGINE=vllm  make demo with real vLLM on CPU instead of the stand-in engine"
	@echo "  DEEP=1       make test with more examples and longer runs"

.PHONY: demo
demo: env ## play a minute of tenants through a real Envoy; report in out/demo/
	@$(if $(filter vllm,$(ENGINE)),python3 tools/env.py vllm >/dev/null &&) $(PY) -m demo --engine $(ENGINE)

.PHONY: up
up: env ## leave the demo's stack running (Envoy, sidecar, stand-in engines) until Ctrl-C
	@$(PY) -m demo --engine $(ENGINE) --stay

.PHONY: test
test: check test-fast test-state helm-check dashboards-check test-console test-dataplane test-stores test-engines ## all checks and tests; ends with what did not run and why
	@$(PY) tools/not_run.py out/test

.PHONY: check
check: env ## formatting, lint, types, import rule, stubs
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	$(PY) -m mypy extproc/tenantry plugins/tenantry_vllm plugins/tenantry_standin envoy/tenantry_envoy dashboards/tenantry_dashboards bench demo tools tests
	PYTHONPATH=extproc:plugins:envoy:dashboards .venv/bin/lint-imports
	$(PY) tools/make_stubs.py --check
	$(PY) tools/pages.py --check
	$(PY) -m tools.chart --check
	$(PY) -m tools.runtime_pins --check
	$(PY) -m tenantry_dashboards --check

.PHONY: test-fast
test-fast: env ## tests without any other process: unit, property, contract
	$(PY) -m pytest -q -n 2 tests/unit tests/property tests/contract --not-run out/test/fast.json

.PHONY: test-state
test-state: env ## tests of state and ledger against SQLite, a real Redis, a real PostgreSQL (installs Debian's where it can)
	@python3 tools/services.py redis >/dev/null || echo "no Redis here: its tests will be listed as not run"
	@python3 tools/services.py postgresql >/dev/null || echo "no PostgreSQL here: its tests will be listed as not run"
	$(PY) -m pytest -q tests/state --not-run out/test/state.json

.PHONY: test-dataplane
test-dataplane: env ## tests through a real Envoy, some with a real Redis (installed as for test-state)
	@python3 tools/services.py redis >/dev/null || echo "no Redis here: its tests will be listed as not run"
	$(PY) -m pytest -q tests/dataplane --not-run out/test/dataplane.json

.PHONY: test-stores
test-stores: env ## tests through a real Envoy of real Milvus engines and unmodified SDKs (installs them, 1.8 GB, once)
	@python3 tools/env.py milvus30 milvus26 milvus23 >/dev/null || echo "not every Milvus here: tests will be listed as not run"
	$(PY) -m pytest -q -n 2 --dist loadfile tests/stores --not-run out/test/stores.json

.PHONY: test-engines
test-engines: env ## tests through a real Envoy against real vLLM on CPU (installs it, 2.5 GB, once)
	@python3 tools/env.py vllm >/dev/null || echo "no vLLM here: its tests will be listed as not run"
	$(PY) -m pytest -q tests/engines --not-run out/test/engines.json

.PHONY: helm-check
helm-check: env ## lint, render and try the Helm chart with Helm 4 and 3.17, and run what it renders (JSON)
	@python3 tools/env.py helm >/dev/null || echo "no Helm here: its tests will be listed as not run"
	@python3 tools/env.py crds >/dev/null || echo "no schemas of CRDs here: their tests will be listed as not run"
	@$(PY) -m tools.checked tests/helm -n 2 --dist loadfile --not-run out/test/helm.json

.PHONY: dashboards-check
dashboards-check: env ## run every query of every panel, rule and alert on a real Prometheus beside a real run (JSON)
	@python3 tools/services.py prometheus >/dev/null || echo "no Prometheus here: its tests will be listed as not run"
	@$(PY) -m tools.checked tests/dashboards --not-run out/test/dashboards.json

.PHONY: test-console
test-console: env ## the console in a headless Chromium (installed as for test-state)
	@python3 tools/services.py chromium >/dev/null || echo "no Chromium here: its tests will be listed as not run"
	$(PY) -m pytest -q tests/console --not-run out/test/console.json

.PHONY: bench-guard
bench-guard: env ## how often the rollout guard takes a healthy candidate back, and how fast a bad one (JSON)
	@$(PY) -m bench.guard

.PHONY: bench-vector
bench-vector: env ## what isolation costs a vector store's request: CPU, and time end to end (JSON; a real Milvus Lite)
	@python3 tools/env.py milvus26 >/dev/null
	@$(PY) -m bench.vector

.PHONY: bench-ledger
bench-ledger: env ## how many usage records a second the ledger books (JSON; SQLite on this disk)
	@$(PY) -m bench.ledger

.PHONY: bench-meter
bench-meter: env ## whom the meter charges for GPU time, against what is fair, and what it costs (JSON; real vLLM on CPU)
	@python3 tools/env.py vllm >/dev/null
	@$(PY) -m bench.meter

.PHONY: bench-reload
bench-reload: env ## change the rules a hundred times under load, and a document of 10,000 tenants (JSON; exit 1 on a failed request)
	@$(PY) -m bench.reload

.PHONY: attack
attack: env ## break-outs against three real Milvus engines and a stand-in Pinecone through Envoy (JSON; exit 1 on a leak)
	@python3 tools/env.py milvus30 milvus26 milvus23 >/dev/null
	@$(PY) -m bench.attack

.PHONY: format
format: env ## format and mend what ruff can
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

.PHONY: stubs
stubs: env ## compile wire.proto, and write Envoy's generated configuration, the generated pages and dashboards anew
	$(PY) tools/make_stubs.py
	$(PY) -m tenantry_envoy
	$(PY) tools/pages.py
	$(PY) -m tools.chart
	$(PY) -m tenantry_dashboards

.PHONY: images-check
images-check: env ## follow both Containerfiles in fresh virtual environments, without a container engine (JSON)
	@$(PY) -m tools.images

.PHONY: golden
golden: env ## render the chart's golden pairs anew (tests/helm/golden); read the diff
	PYTHONPATH=tests $(PY) -m helm.golden_files

.PHONY: pins
pins: ## resolve the development environment anew and write constraints/dev.txt
	python3 tools/pin.py
	$(PY) -m tools.runtime_pins

.PHONY: clean
clean: ## remove what the targets made in this tree (the cached environments stay)
	rm -rf .venv .tenantry out dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: env
env:
	@python3 tools/env.py dev >/dev/null
