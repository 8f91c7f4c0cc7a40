# What a person can do here: `make help` lists it. Recipes run from this folder.

.DEFAULT_GOAL := help
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory
SHELL := /bin/bash

# A default that `make help` shows stands between `?=` and `#!`, with no space before the `#`.
PORT ?= 8000#! HTTP port of `make serve`
GRPC_PORT ?= $(shell expr $(PORT) + 1)#! gRPC port (PORT + 1)
METRICS_PORT ?= $(shell expr $(PORT) + 2)#! Prometheus metrics port (PORT + 2)
GATEWAY_PORT ?= $(shell expr $(PORT) + 80)#! port of the gateway, OpenAI's API (PORT + 80)
GATEWAY_HOST ?= 127.0.0.1#! address the gateway listens on; the network's needs GATEWAY_CONFIG
GATEWAY_CONFIG ?=#! the gateway's configuration, a YAML file: see docs/gateway.md
HOST ?= 127.0.0.1#! address Triton listens on; clients go through the gateway
MODEL ?= ensemble#! the model that the message of `make serve` shows
REPOSITORY ?= model_repository#! the model repository that Triton reads
RECIPE ?=#! the recipe to build: a name in build/recipes or a YAML file (demo)
CHECKPOINT ?=#! a checkpoint in place of the recipe's, or without a recipe
PRECISION ?=#! the precision of the weights in place of the recipe's: fp32, int8, int4, …
LICENCE ?=#! IDENTIFIER: REASON, for a checkpoint that states no licence or one that isn't allowed
QUALITY ?= on#! off publishes an engine that was not measured; needs REASON
REASON ?=#! why QUALITY is off, kept in the manifest
VERSION ?=#! the version to promote
KEEP ?= 5#! how many versions `make prune` keeps
ARTIFACTS ?= artifacts#! where built versions are kept
SIGNING_KEY ?= .keys/signing.pem#! the private key that signs them, made on first use
SETTINGS ?=#! settings of the repository, as NAME=VALUE words: see ensembles/repository_settings.py
PYTHON ?= $(supported_python)#! the Python to make environments with, 3.10 to 3.12 (the first found)
VENV ?= .venv#! the environment that serves and tests
CLIENTS_VENV ?= .venv-clients#! the environment of other people's clients, to test the gateway with
EVALUATION_VENV ?= .venv-evaluation#! the environment of lm-evaluation-harness, to test the gateway with
BUILD_VENV ?= .venv-build#! the environment that trains and exports, with torch
PEERS ?=#! what `make bench-peers` compares with: all where none is named
WORKLOADS ?=#! what `make bench-peers` runs: all where none is named
ROUNDS ?= 3#! rounds of `make bench-peers`
EACH ?= 1000#! how many requests of each kind `make test-refusals` sends, by each way
MINUTES ?= 60#! how long `make bench-soak` loads the server
AUDIT_VENV ?= .venv-audit#! the environment that looks the lock files up, with pip-audit
MODELOPT_VENV ?= .venv-modelopt#! the environment that quantizes for TensorRT-LLM
KERNELS_VENV ?= .venv-kernels#! the environment of the C compiler from a wheel
LOCKS_VENV ?= .venv-locks#! the environment that makes the lock files, with uv
AUDIT_ARGS ?=#! arguments of the scan of the lock files, such as --strict
JOBS ?= $(shell expr $(shell nproc) \* 3 / 2)#! processes of the unit tests (three for two cores, as many tests wait)
TEST ?=#! what `make test-one` runs: files, files::tests, -k words
SLOW_ENGINE ?= 1#! how many times as long the engine takes in integration tests, to see that none races
ARGS ?=#! further arguments of the commands behind perf, bench-*, test and demo-score

supported_python = $(or $(firstword $(foreach each,python3 python3.12 python3.11 python3.10,\
    $(shell $(each) -c 'import sys; (3, 10) <= sys.version_info[:2] <= (3, 12) and print("$(each)")' \
    2>/dev/null))),python3)

# A misspelt variable on the command line would be ignored without a word.
given := $(foreach each,$(.VARIABLES),$(if $(findstring command line,$(origin $(each))),$(each)))
known := $(shell sed -n 's/^\([A-Z_]*\) ?=.*/\1/p' Makefile) MAKEFLAGS SHELL
ifneq ($(filter-out $(known),$(given)),)
    $(error $(shell python3 ops/make_variables.py $(filter-out $(known),$(given))))
endif

# What a shell or a pip.conf may hold that would send a package elsewhere than the environment.
unexport PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_ROOT
# A process that keeps no bytecode compiles every module anew, and tests start many processes.
unexport PYTHONDONTWRITEBYTECODE
export PIP_USER := 0
export PIP_REQUIRE_VIRTUALENV := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1
install_lock = ops/install_lock.py

run := "$(VENV)/bin/python"
run_build := "$(BUILD_VENV)/bin/python"
build = $(run) -m build $(or $(RECIPE),$(if $(CHECKPOINT),,demo)) \
    $(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)") $(if $(PRECISION),--precision "$(PRECISION)") \
    $(if $(LICENCE),--licence "$(LICENCE)") --quality "$(QUALITY)" --reason "$(REASON)" --store "$(ARTIFACTS)" --key "$(SIGNING_KEY)" \
    --modelopt $(run_modelopt)
artifacts = $(run) -m build.artifacts --store "$(ARTIFACTS)" --repository "$(REPOSITORY)"
reload = $(run) -m ops.reload --url "$(HOST):$(PORT)"
run_modelopt := "$(MODELOPT_VENV)/bin/python"

.PHONY: help
help: ## List the targets and the variables
	@echo 'Usage: make TARGET [VARIABLE=value …]'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' Makefile
	@echo; echo 'Variables (default):'
	@awk -F ' [?]= ?|#! ' '/^[A-Z_]+ [?]=.*#!/ { \
	    printf "  %-18s %s%s\n", $$1, $$3, $$2 ~ /^$$|[$$]/ ? "" : " (" $$2 ")" }' Makefile

.PHONY: serve
serve: repository ## Serve the demo model on Triton behind the gateway, from this checkout alone
	@exec $(run) -m ops.serve --repository "$(REPOSITORY)" --model "$(MODEL)" --host "$(HOST)" \
	    --http-port "$(PORT)" --grpc-port "$(GRPC_PORT)" --metrics-port "$(METRICS_PORT)" \
	    --gateway-host "$(GATEWAY_HOST)" --gateway-port "$(GATEWAY_PORT)" \
	    $(if $(GATEWAY_CONFIG),--gateway-config "$(GATEWAY_CONFIG)")

.PHONY: repository
repository: venv ## Build what is named, promote it (else what is served stays), assemble the model repository that Triton reads
	@$(build) --promote "$(REPOSITORY)" $(if $(RECIPE)$(CHECKPOINT)$(PRECISION),,--keep-served)
	@$(run) -m ensembles --repository "$(REPOSITORY)" $(foreach each,$(SETTINGS),--set '$(each)') \
	    $(if $(filter serve,$(MAKECMDGOALS)),--brief)

# Exit code 3: all is done that this machine can do; the message says how to go on.
.PHONY: build-engines
build-engines: venv ## Build RECIPE into a new version, unless one is up to date; ARGS=--dry-run plans
	@$(build) $(ARGS) || [ $$? = 3 ]

.PHONY: versions
versions: venv ## List the versions that were built, and which one is served
	@$(artifacts) list

.PHONY: promote
promote: venv ## Serve VERSION, in a running Triton too, without dropping a request
	@$(artifacts) promote "$(VERSION)" $(ARGS)
	@$(if $(filter --restart,$(ARGS)),,$(reload))

.PHONY: rollback
rollback: venv ## Serve the version before, in a running Triton too
	@$(artifacts) rollback $(ARGS)
	@$(if $(filter --restart,$(ARGS)),,$(reload))

.PHONY: prune
prune: venv ## Delete all but the newest KEEP versions, and those in use
	@$(artifacts) prune --keep $(KEEP)

.PHONY: build-report
build-report: $(VENV)/.dev ## Table and picture of all versions: accuracy against size and speed
	@$(artifacts) report

.PHONY: sizing
sizing: venv ## Memory and GPUs for a checkpoint: ARGS='CONFIG.json --weights fp8'
	@$(run) -m build.sizing $(ARGS)

.PHONY: modelopt
modelopt: $(MODELOPT_VENV)/.installed ## Install NVIDIA ModelOpt, which recipes for TensorRT-LLM need
	@:

.PHONY: demo-checkpoint
demo-checkpoint: $(BUILD_VENV)/.installed ## Train the demo model anew (an hour on two cores)
	@$(run_build) -m build.demo.train

.PHONY: demo-score
demo-score: venv ## Examine the demo model on held-out questions, through its engine
	@$(run) -m build.demo.exam $(ARGS)

.PHONY: classifier
classifier: venv ## Train the safety policies' small classifier anew (seconds)
	@$(run) -m build.train_classifier policies/classifiers/prompt_injection

.PHONY: kernels
kernels: venv $(KERNELS_VENV)/.installed ## Build the C kernels for all processors (ARGS=--check compares)
	@$(run) -m python_backend.engine.kernels.kernel_release "$(KERNELS_VENV)/bin/python" $(ARGS)

.PHONY: perf
perf: $(VENV)/.dev ## Load-test with perf_analyzer; write figures, a table and a picture
	@if ! (: <> "/dev/tcp/$(HOST)/$(GRPC_PORT)") 2>/dev/null; then \
	    $(MAKE) repository || exit; \
	    $(run) -m ops.serve --repository "$(REPOSITORY)" --host "$(HOST)" --http-port "$(PORT)" \
	        --grpc-port "$(GRPC_PORT)" --metrics-port "$(METRICS_PORT)" > /dev/null & \
	    trap "kill $$! 2>/dev/null; wait" EXIT; \
	fi; \
	$(run) -m clients.perf --url "$(HOST):$(GRPC_PORT)" --wait-s 60 $(ARGS)

.PHONY: bench-engine
bench-engine: venv ## Measure the engine in process on a model of half a billion random weights
	@$(run) -m benchmarks.engine_throughput $(ARGS)

.PHONY: bench-peers
bench-peers: $(VENV)/.dev ## Measure Trireme beside other CPU engines, each in its own environment
	@$(run) -m benchmarks.peers $(if $(PEERS),--peers $(PEERS)) --rounds $(ROUNDS) \
	    $(if $(WORKLOADS),--workloads $(WORKLOADS)) $(ARGS)

.PHONY: bench-soak
bench-soak: $(VENV)/.dev ## Load the whole server for MINUTES, watch its memory
	@$(run) -m benchmarks.soak --minutes $(MINUTES) $(ARGS)

.PHONY: bench-hardware
bench-hardware: venv ## Measure what this machine can do at best, and what that bounds
	@$(run) -m benchmarks.hardware

.PHONY: bench-quality
bench-quality: venv ## Measure what rounding costs RECIPE (smollm2), token by token; ARGS='--ours NAME=VALUE …'
	@$(run) -m benchmarks.rounding_cost $(or $(RECIPE),smollm2) $(if $(CHECKPOINT),--checkpoint "$(CHECKPOINT)") $(ARGS)

.PHONY: bench-builds
bench-builds: venv ## Build the demo and a tiny checkpoint of every architecture in each precision
	@$(run) -m benchmarks.builds

.PHONY: bench-cache
bench-cache: repository ## Measure what the KV cache wastes and saves, on the served engine
	@$(run) -m benchmarks.cache_use --engine "$$(dirname "$(REPOSITORY)"/tensorrt_llm/*/engine.json)" $(ARGS)

.PHONY: bench-tenants
bench-tenants: venv ## Measure what keys, limits and the audit add to a request (ARGS='--redis URL')
	@$(run) -m benchmarks.tenants $(ARGS)

.PHONY: bench-budget
bench-budget: venv ## Measure what the token budget of a step does to streams and prompts
	@$(run) -m benchmarks.budget $(ARGS)

.PHONY: bench-cuda
bench-cuda: venv ## Measure an NVIDIA GPU's tokens per second against its memory bandwidth
	@$(run) -m benchmarks.cuda $(ARGS)

.PHONY: bench-scoring
bench-scoring: venv ## Measure a long prompt's log probabilities, by rows of logits a step
	@$(run) -m benchmarks.scoring $(ARGS)

.PHONY: bench-guidance
bench-guidance: venv ## Measure what guided decoding takes (ARGS='--schemas FILE --tokenizer FILE' holds it to schemas)
	@$(run) -m benchmarks.guidance $(ARGS)

.PHONY: bench-sampling
bench-sampling: venv ## Measure the choice of tokens from a large vocabulary
	@$(run) -m benchmarks.sampling

.PHONY: bench-gateway
bench-gateway: repository ## Measure what the gateway costs beside Triton's own gRPC
	@$(run) -m benchmarks.gateway_cost --repository "$(REPOSITORY)" $(ARGS)

.PHONY: bench-priorities
bench-priorities: repository ## Measure a person's wait beside batch work that fills the machine
	@$(run) -m benchmarks.priorities --repository "$(REPOSITORY)" $(ARGS)

.PHONY: bench-neighbours
bench-neighbours: repository ## Measure a tenant's wait while another sends the worst that is accepted
	@$(run) -m benchmarks.neighbours --repository "$(REPOSITORY)" $(ARGS)

# Without torch, other people's clients and a tritonserver.
unit = not torch and not modelopt and not integration and not clients
served = not torch and not modelopt and (integration or clients)
# Each process begins with a stretch of its own, so that a file's fixtures are made once.
side_by_side = -n $(JOBS) --dist worksteal

.PHONY: check
check: lint typecheck ## Check format, style and types, and run the unit tests: for every change
	@$(run) -m pytest -q -m '$(unit) and not slow' $(side_by_side) --hypothesis-profile=few $(ARGS)

.PHONY: test-one
test-one: $(VENV)/.dev ## Run TEST alone, such as TEST=tests/gateway/test_edge.py
	@$(run) -m pytest -q $(TEST) $(ARGS)

.PHONY: coverage
coverage: $(VENV)/.dev ## Measure the unit tests' coverage, by branches; pages in reports/coverage
	@mkdir -p .cache/coverage
	@$(run) -m pytest -q -m '$(unit)' $(side_by_side) --cov --cov-report=term --cov-report=html \
	    --timeout 600 $(ARGS)

.PHONY: test
test: lint typecheck audit-dependencies $(BUILD_VENV)/.installed $(CLIENTS_VENV)/.installed $(EVALUATION_VENV)/.installed $(if $(shell command -v npm),node-clients) ## Check style and types, then run every test
	@$(run_build) -m pytest -m 'torch and not sweep' tests/build
	@$(run) -m ops.sanitize
	@$(run) -m pytest -q -m '$(unit)' $(side_by_side) $(ARGS)
	@SLOW_ENGINE="$(SLOW_ENGINE)" $(run) -m pytest -m '$(served)' \
	    $(if $(filter-out 1,$(SLOW_ENGINE)),--timeout 600) $(ARGS)

.PHONY: test-refusals
test-refusals: $(VENV)/.dev ## Have EACH requests of every kind refused, by every way: the server must live
	@REFUSALS="$(EACH)" $(run) -m pytest tests/integration/test_refusals.py --timeout 7200 $(ARGS)

.PHONY: sweep
sweep: $(BUILD_VENV)/.installed ## Hold every setting of every family against transformers (a thousand builds)
	@$(run_build) -m pytest -m sweep tests/build $(ARGS)

.PHONY: sanitize
sanitize: $(VENV)/.dev ## Test the C kernels under AddressSanitizer, UBSan and ThreadSanitizer
	@$(run) -m ops.sanitize $(ARGS)

.PHONY: test-modelopt
test-modelopt: $(MODELOPT_VENV)/.installed ## Test the quantization for TensorRT-LLM
	@$(run_modelopt) -m pytest tests/build/tensorrt_llm/test_modelopt_quantize.py $(ARGS)

# What could not be looked up is named; it fails with AUDIT_ARGS=--strict.
.PHONY: audit-dependencies
audit-dependencies: $(AUDIT_VENV)/.installed ## Look the lock files up in the known vulnerabilities
	@"$(AUDIT_VENV)/bin/python" -m ops.dependencies $(AUDIT_ARGS)

# Versions stay, unless ARGS=--upgrade; ARGS=NAME makes one.
.PHONY: locks
locks: $(LOCKS_VENV)/.installed ## Make the lock files of all environments from requirements/*.in
	@"$(LOCKS_VENV)/bin/python" -m ops.locks $(ARGS)

.PHONY: lint
lint: $(VENV)/.dev ## Check format and style
	@$(run) -m ruff format --check --quiet . || { echo 'run `make format`' >&2; exit 1; }
	@$(run) -m ruff check --quiet .

.PHONY: format
format: $(VENV)/.dev ## Format every file, mend what can be mended
	@$(run) -m ruff check --fix --quiet .
	@$(run) -m ruff format .

.PHONY: typecheck
typecheck: $(VENV)/.dev ## Check the types
	@$(run) -m mypy --no-error-summary .

.PHONY: venv
venv: $(VENV)/.gateway ## Make the serving environment, with Triton and the gateway in it
	@:

.PHONY: venv-cuda
venv-cuda: $(VENV)/.cuda ## Make the serving environment one for an NVIDIA GPU (a download of gigabytes)
	@:

.PHONY: clean
clean: ## Remove the environments, the engine, reports and caches; built versions and keys stay
	rm -rf "$(VENV)" "$(BUILD_VENV)" "$(CLIENTS_VENV)" "$(EVALUATION_VENV)" "$(AUDIT_VENV)" "$(MODELOPT_VENV)" \
	    "$(KERNELS_VENV)" "$(LOCKS_VENV)" .cache .mypy_cache .ruff_cache .pytest_cache \
	    .hypothesis reports
	find model_repository/tensorrt_llm -mindepth 1 -maxdepth 1 ! -name 1 ! -name config.pbtxt \
	    -exec rm -rf {} +
	find model_repository/tensorrt_llm/1 -type f ! -name model.py -delete
	rm -f model_repository/trusted.pem
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.serving: requirements/serving.txt
	@$(PYTHON) ops/preflight.py
	@echo 'Installing the serving environment in $(VENV) (a 150 MB download, once)'
	@rm -rf "$(VENV)" && $(PYTHON) -m venv "$(VENV)"
	@$(run) $(install_lock) requirements/serving.txt
	@$(run) -m ops.triton_process > /dev/null
	@$(run) -m clients.perf_analyzer > /dev/null
	@touch "$@"

$(VENV)/.gateway: $(VENV)/.serving requirements/gateway.txt
	@$(run) $(install_lock) requirements/gateway.txt
	@touch "$@"

# Both packages are the module `onnxruntime`, so one goes before the other comes; where it doesn't come,
# the environment is made anew.
$(VENV)/.cuda: $(VENV)/.gateway requirements/cuda.txt
	@echo 'Installing onnxruntime for CUDA, with the libraries it needs, in $(VENV)'
	@$(run) -m pip uninstall -qq --yes onnxruntime
	@$(run) $(install_lock) requirements/cuda.txt || { rm -f "$(VENV)/.serving"; exit 1; }
	@touch "$@"

$(VENV)/.dev: $(VENV)/.gateway requirements/dev.txt
	@echo 'Installing the tools for tests and checks in $(VENV)'
	@$(run) $(install_lock) requirements/dev.txt
	@touch "$@"

$(BUILD_VENV)/.installed: $(addprefix requirements/,torch.txt torch-cpu.txt build.txt serving.txt dev.txt)
	@echo 'Installing the build environment, with torch, in $(BUILD_VENV) (once)'
	@[ -x $(run_build) ] || { $(PYTHON) ops/preflight.py && $(PYTHON) -m venv "$(BUILD_VENV)"; }
	@$(run_build) ops/install_torch.py
	@$(run_build) $(install_lock) requirements/build.txt
	@$(run_build) $(install_lock) requirements/serving.txt
	@$(run_build) $(install_lock) requirements/dev.txt
	@touch "$@"

$(MODELOPT_VENV)/.installed: $(addprefix requirements/,torch.txt torch-cpu.txt modelopt.txt)
	@echo 'Installing the environment of NVIDIA ModelOpt, with torch, in $(MODELOPT_VENV) (once)'
	@[ -x $(run_modelopt) ] || { $(PYTHON) ops/preflight.py && $(PYTHON) -m venv "$(MODELOPT_VENV)"; }
	@$(run_modelopt) ops/install_torch.py
	@$(run_modelopt) $(install_lock) requirements/modelopt.txt
	@touch "$@"

$(AUDIT_VENV)/.installed: requirements/audit.txt
	@echo 'Installing pip-audit in $(AUDIT_VENV) (once)'
	@rm -rf "$(AUDIT_VENV)" && $(PYTHON) -m venv "$(AUDIT_VENV)"
	@"$(AUDIT_VENV)/bin/python" $(install_lock) requirements/audit.txt
	@touch "$@"

$(CLIENTS_VENV)/.installed: requirements/clients.txt
	@echo "Installing other people's clients in $(CLIENTS_VENV) (once)"
	@rm -rf "$(CLIENTS_VENV)" && $(PYTHON) -m venv "$(CLIENTS_VENV)"
	@"$(CLIENTS_VENV)/bin/python" $(install_lock) requirements/clients.txt
	@touch "$@"

$(EVALUATION_VENV)/.installed: requirements/evaluation.txt
	@echo "Installing lm-evaluation-harness in $(EVALUATION_VENV) (once)"
	@rm -rf "$(EVALUATION_VENV)" && $(PYTHON) -m venv "$(EVALUATION_VENV)"
	@"$(EVALUATION_VENV)/bin/python" $(install_lock) requirements/evaluation.txt
	@touch "$@"

NODE_CLIENTS = tests/integration/node_clients

.PHONY: node-clients
node-clients: $(NODE_CLIENTS)/node_modules/.installed ## Install other people's clients in Node, to test the gateway with

$(NODE_CLIENTS)/node_modules/.installed: $(NODE_CLIENTS)/package-lock.json
	@echo "Installing other people's clients in Node (once)"
	@cd $(NODE_CLIENTS) && npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch "$@"

$(KERNELS_VENV)/.installed: requirements/kernels.txt
	@echo 'Installing a C compiler in $(KERNELS_VENV) (a 100 MB download, once)'
	@rm -rf "$(KERNELS_VENV)" && $(PYTHON) -m venv "$(KERNELS_VENV)"
	@"$(KERNELS_VENV)/bin/python" $(install_lock) requirements/kernels.txt
	@touch "$@"

$(LOCKS_VENV)/.installed: requirements/locks.txt
	@echo 'Installing uv in $(LOCKS_VENV) (once)'
	@rm -rf "$(LOCKS_VENV)" && $(PYTHON) -m venv "$(LOCKS_VENV)"
	@"$(LOCKS_VENV)/bin/python" $(install_lock) requirements/locks.txt
	@touch "$@"
