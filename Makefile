# Everything that can be done with Trivet on one machine. `make help` lists it.
SHELL := /bin/sh
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help
help: ## List the targets
	@echo "Start with: make run"
	@awk -F ':.*## ' '/^##@ /{print "\n" substr($$0, 5)} /^[a-z0-9-]+:.*## /{printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nVariables\n'
	@printf '  %-24s %s\n' \
	    'PYTHON=python3' 'which Python makes .venv; 3.11 or newer' \
	    'TRIVET_LOCAL_DIR=.local' 'where a cluster keeps its data, logs and secrets' \
	    'TRIVET_PORT_OFFSET=0' 'added to every port, so that two clusters can stand side by side' \
	    'WORKERS=3' 'how many tests run at once'

UV_INSTALLED := $(VENV)/.uv
$(UV_INSTALLED): .ci/uv.txt
	@command -v $(PYTHON) >/dev/null || { echo "trivet: $(PYTHON) was not found. Set PYTHON=/path/to/python3.11 (or newer)." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("trivet: Python 3.11 or newer is needed; %s is %s. Set PYTHON=/path/to/python3.11." % (sys.executable, sys.version.split()[0]))'
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "trivet: $(PYTHON) has no venv module. On Debian and Ubuntu: apt install python3-venv." >&2; exit 1; }
	@test -x $(BIN)/python || { echo "Making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .ci/uv.txt
	@touch $@

$(VENV)/.installed: $(UV_INSTALLED) uv.lock pyproject.toml
	@echo "Installing what uv.lock names (up to a minute the first time)"
	@# Compiled once here: nine processes that start together would each compile all they import, 1 s of CPU apiece.
	@$(BIN)/uv sync --locked --inexact --compile-bytecode
	@touch $@

##@ Run a cluster

.PHONY: install
install: $(VENV)/.installed ## Make .venv with exactly what is locked

.PHONY: run
run: install ## Start a whole cluster, store a first file; Ctrl-C stops it
	@exec $(BIN)/python -m local_cluster run

.PHONY: demo
demo: install ## Watch a cluster of its own lose a node and heal; takes a minute and leaves nothing
	@exec $(BIN)/python -m local_cluster demo

.PHONY: up
up: install ## Start, in the background, what of the cluster is not running; or NAMES="storage-1 redis-1"
	@exec $(BIN)/python -m local_cluster up $(NAMES)

.PHONY: restart
restart: install ## Stop and start every service while the cluster serves, or NAMES one after the other
	@exec $(BIN)/python -m local_cluster restart $(NAMES)

.PHONY: down
down: install ## Stop the cluster, or NAMES; its files are kept
	@exec $(BIN)/python -m local_cluster down $(NAMES)

.PHONY: status
status: install ## Show which process runs where, what every storage node lacks, and what the cluster has to do without
	@exec $(BIN)/python -m local_cluster status

.PHONY: node-add
node-add: install ## Add a storage node with its Redis to the running cluster
	@exec $(BIN)/python -m local_cluster node-add

.PHONY: node-drain
node-drain: install ## Have a storage node (ID=storage-4) emptied and taken out of the cluster; CANCEL=1 to use it again
	@exec $(BIN)/python -m local_cluster node-drain $(if $(filter-out 0,$(CANCEL)),--cancel) $(ID)

.PHONY: node-remove
node-remove: install ## The same, wait until it is out, and stop it; LOST=1 when it will never come back
	@exec $(BIN)/python -m local_cluster node-remove $(if $(filter-out 0,$(LOST)),--lost) $(ID)

.PHONY: verify
verify: install ## Read every replica of every chunk and compare it with the log
	@exec $(BIN)/python -m local_cluster verify

.PHONY: secrets
secrets: $(UV_INSTALLED) ## Make the secrets for docker compose and Kubernetes, once; needs none of the rest of `make install`
	@$(BIN)/python -c 'import blake3' 2>/dev/null || $(BIN)/uv sync --quiet --locked --inexact --only-group secrets
	@$(BIN)/python -m local_cluster.container_secrets

.PHONY: machines
machines: install ## Write settings and secrets for machines without containers: MACHINES="a=10.0.0.1 b=10.0.0.2 c=10.0.0.3"
	@$(BIN)/python -m local_cluster.machines $(MACHINES)

.PHONY: images
images: ## Build the four images, each once; docker-compose.yml names the variables for registry, version and base
	@TRIVET_SECRETS_GROUP=0 TRIVET_REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) docker compose build

##@ Check and test

.PHONY: check
check: lint types imports tidy ## Everything that is checked without running the product: lint, types, imports, tidy, manifests
	$(BIN)/python .ci/check_containers.py

.PHONY: lint
lint: install ## Lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: install ## Types
	$(BIN)/mypy
	$(BIN)/mypy .ci/audit.py
	$(BIN)/mypy .ci/check_containers.py
	$(BIN)/mypy .ci/docs_site.py
	$(BIN)/mypy .ci/openapi.py
	$(BIN)/mypy .ci/pictures.py
	$(BIN)/mypy .ci/prometheus_rule.py
	$(BIN)/mypy .ci/reference.py

.PHONY: imports
imports: install ## Import rules: layers of every package, modules that must stay pure
	$(BIN)/lint-imports

.PHONY: tidy
tidy: install ## Maps, links, words, class names, settings and dependencies; no secret and no link is tracked
	$(BIN)/python -m pytest -q tests/tidy

.PHONY: audit
audit: install ## Ask the OSV database for known vulnerabilities of what is locked; skipped, with a word, where it is out of reach
	@$(BIN)/python .ci/audit.py

# pytest compiles every assert of every test anew unless it may keep what it made (`__pycache__`), and so does each process of ours.
test-unit test: export PYTHONDONTWRITEBYTECODE :=

# None of them asks what a disk keeps, but they sync a thousand times: in memory, where there is a gigabyte for them.
UNIT_FOLDER = $(shell df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 && $$4 > 1000000 {print "TMPDIR=/dev/shm"}')

.PHONY: test-unit
test-unit: install ## The quick tests: no process is started, a minute and a half; `make tidy` has those of the tree
	$(or $(TMPDIR:%=TMPDIR=%),$(UNIT_FOLDER)) $(BIN)/python -m pytest -q tests/unit -n $(or $(WORKERS),2) --dist worksteal

# Most tests wait for other processes, so `make test` has a worker more than a small machine has processors. What keeps them
# busy, or breaks things on purpose, has two.
WORKERS ?=
.PHONY: test
test: install ## Unit, contract, simulation and integration tests against real processes
	$(BIN)/python -m pytest -m "not slow and not faults and not containers and not kubernetes" -n $(or $(WORKERS),3) --dist loadfile

.PHONY: test-slow
test-slow: install ## The tests that take minutes, those of the containers last
	$(BIN)/python -m pytest -m slow
	@$(MAKE) --no-print-directory test-containers

.PHONY: test-mutants
test-mutants: install ## Put wrong changes into a copy of the code, one at a time: the test that must notice each does
	@$(BIN)/python -m tests.mutation --jobs $(or $(WORKERS),2) $(MUTANTS)

.PHONY: test-faults
test-faults: install ## Break disks, processes and system calls on purpose; needs root for most, says what it left out
	@$(BIN)/python -m tests.faults.tools.needs
	$(BIN)/python -m pytest tests/faults -m faults -n $(or $(WORKERS),2) --dist loadfile
	$(BIN)/python -m pytest tests/integration/s3 --s3-server trivet-with-faults -n $(or $(WORKERS),2) --dist loadfile

.PHONY: test-containers
test-containers: install ## Build the images, run docker-compose.yml under an engine of its own (root; from Debian packages), break it
	@test "$$(id -u)" -eq 0 || { echo "NOT TESTED: containers: an engine of its own needs root." >&2; exit 0; }
	$(BIN)/python -m pytest tests/containers -m containers --durations=15

.PHONY: test-kubernetes
test-kubernetes: install ## Deploy k8s/ on a Kubernetes of its own, built from its Go modules the first time (an hour), and break it (root)
	@test "$$(id -u)" -eq 0 || { echo "NOT TESTED: Kubernetes: machines of its own need root." >&2; exit 0; }
	$(BIN)/python -m pytest tests/kubernetes -m kubernetes --durations=15 -s

SEEDS ?= 50000
.PHONY: simulate
simulate: install ## Live SEEDS random lives of the consensus engine (or one: SEED=7)
	@$(BIN)/python -m tests.simulation.many_lives --seeds $(if $(SEED),$(SEED),0:$(SEEDS))

SCHEDULES ?= 10000
.PHONY: simulate-garbage
simulate-garbage: install ## Live SCHEDULES random schedules of garbage (or one: SEED=7); goes on where the file DONE ends
	@$(BIN)/python -m tests.simulation.garbage.many_schedules --seeds $(if $(SEED),$(SEED),0:$(SCHEDULES)) $(if $(DONE),--done $(DONE))

HOURS ?= 1
.PHONY: chaos
chaos: install ## Random faults on whole clusters with two gateways for HOURS hours, or RUNS=10 times; stops at the first violation
	@$(BIN)/python -m tests.faults.chaos $(if $(RUNS),--runs $(RUNS),--hours $(HOURS))

.PHONY: format
format: install ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

##@ Files made from others

.PHONY: openapi
openapi: install ## Write docs/openapi/ from the code of the services
	$(BIN)/python .ci/openapi.py

.PHONY: reference
reference: install ## Write docs/settings.md, docs/metrics.md, docs/s3.md and the PrometheusRule of k8s/ from the code of the services
	$(BIN)/python .ci/reference.py
	$(BIN)/python .ci/prometheus_rule.py

.PHONY: pictures
pictures: install ## Write docs/images/ from what the program prints
	$(BIN)/python .ci/pictures.py

.PHONY: docs
docs: install ## Build the documentation as a site, in .local/docs/site; nothing of it needs a network or a server
	@$(BIN)/python .ci/docs_site.py

SERVICES := clock consensus gateway storage
.PHONY: lock
lock: $(UV_INSTALLED) ## Write uv.lock and the requirements.lock of every service from pyproject.toml
	$(BIN)/uv lock
	@set -e; for service in $(SERVICES); do \
	    $(BIN)/uv export -q --frozen --no-emit-project --no-default-groups --group $$service -o services/$$service/requirements.lock; \
	done

.PHONY: sbom
sbom: install ## Write dist/sbom.json (CycloneDX): every distribution that the images hold, with its version and digest
	@mkdir -p dist
	$(BIN)/uv export -q --frozen --no-emit-project --no-default-groups --group clock --group consensus --group gateway --group storage --format cyclonedx1.5 -o dist/sbom.json

##@ Measure

.PHONY: bench
bench: install ## Measure the whole cluster: ROWS="get-4k-x16 idle" ROUNDS=9 BASE=revision (docs/benchmarks.md)
	@$(BIN)/python -m benchmarks.cluster --rounds "$(or $(ROUNDS),9)" --rows "$(ROWS)" $(if $(BASE),--base "$(BASE)")

.PHONY: bench-publish
bench-publish: install ## Hand the tables of the last `make bench` over to benchmarks/RESULTS.md
	@$(BIN)/python -m benchmarks.cluster.publish

.PHONY: profile
profile: install ## Profile gateway, storage node and leader while ROW=get-4k-x16 runs (docs/benchmarks.md)
	@$(BIN)/python -m benchmarks.cluster.profiler "$(ROW)"

SIZE ?= 1
GIGABYTES ?= 1
.PHONY: bench-repair
bench-repair: install ## Measure repair, reconcile at rest and space that comes back: SIZE=0.01 GIGABYTES=10 PARTS="small in-sync"
	@$(BIN)/python -m benchmarks.repair --size "$(SIZE)" --gigabytes "$(GIGABYTES)" --parts "$(PARTS)"

.PHONY: bench-consensus
bench-consensus: install ## Measure commits, publishes, reads and failover of the consensus service
	@$(BIN)/python -m benchmarks.consensus

.PHONY: bench-metadata
bench-metadata: install ## Measure the state machine at a million files: publishes, pages, restart, copy, forgetting
	@$(BIN)/python -m benchmarks.metadata --files $(or $(FILES),1000000)

.PHONY: bench-clock
bench-clock: install ## Measure what stamping costs and what published time is worth
	@$(BIN)/python -m benchmarks.clock

.PHONY: bench-long-life
bench-long-life: install ## Measure three members with a million files: restart, memory, a new member under load
	@$(BIN)/python -m benchmarks.long_life

.PHONY: bench-storage
bench-storage: install ## Measure puts and reads of one storage node in its three modes against the bare disk, its start, its signatures
	@$(BIN)/python -m benchmarks.storage
	@$(BIN)/python -m benchmarks.storage_restart
	@$(BIN)/python -m benchmarks.signing

.PHONY: bench-client
bench-client: install ## Measure the client against curl and a bare load generator, and a list of 100,000 keys
	@$(BIN)/python -m benchmarks.client --rounds "$(or $(ROUNDS),5)"

.PHONY: bench-s3
bench-s3: install ## Measure calls of S3 that do much at once: complete 10,000 parts, delete 1,000 keys, list among a million
	@$(BIN)/python -m benchmarks.s3_calls --rounds "$(ROUNDS)"

.PHONY: bench-crowd
bench-crowd: install ## Measure what a crowd of slow clients, and one of greedy ones, costs the others
	@$(BIN)/python -m benchmarks.crowd

.PHONY: bench-volume
bench-volume: install ## Put 10 GB through one storage node with 512 MB of Redis, and read all of it back
	@$(BIN)/python -m benchmarks.storage_volume
