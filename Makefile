# Everything that people and CI do, by name. `make` alone lists it.

PYTHON ?= $(or $(shell command -v python3.11),python3)
BIN := .venv/bin
READY := .venv/ready
TAG ?= $(RELEASE)
RELEASE ?= v1
SIZE ?= full
REGISTRY ?= registry.example.org
REVISION = $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
# The third engine is tested where there is a Java to run it.
SPARK := $(if $(shell command -v java),.venv/spark)

# Three files at a time, in the order of pyproject.toml: tests wait for servers and processes.
TOGETHER := -n 3 --dist loadfile --no-loadscope-reorder

help:                 ## list the targets
	@grep -E '^[a-z-]+: .*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 13

run: $(READY)         ## set up, simulate a fleet, train, evaluate, register, release and deploy a model
	$(BIN)/python run.py --pipeline training

staging: $(READY)     ## the same on real PostgreSQL, Redis and MLflow, which it starts on this machine
	$(BIN)/python -m millwright services up
	$(BIN)/python -m millwright stacks
	$(BIN)/python run.py --stack staging --pipeline training

test: $(READY) $(SPARK) ## all tests: under 15 minutes on two cores
	$(BIN)/python -m pytest $(TOGETHER)

quick: $(READY)       ## the checks and the unit tests: under 2 minutes
	$(MAKE) check
	$(BIN)/python -m pytest $(TOGETHER) tests/unit

check: $(READY)       ## format, lint, types and import layers
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: $(READY)       ## make the virtual environment .venv from the locked requirements

$(READY): requirements/setup.txt requirements/dev.txt pyproject.toml millwright/activation.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Python 3.11 is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/setup.txt
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements/dev.txt
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m millwright.activation >> $(BIN)/activate
	mkdir -p .millwright/local
	touch $(READY)

.venv/spark: $(READY) requirements/spark.txt
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --require-hashes -r requirements/spark.txt
	touch $@

lock: $(READY)        ## resolve pyproject.toml into requirements/ anew
	$(BIN)/uv pip compile --quiet --upgrade $(LOCK) --extra dev -o requirements/dev.txt pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade $(LOCK) --extra dev --extra spark -c requirements/dev.txt -o requirements/spark.txt pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade $(LOCK) --extra dev -c requirements/dev.txt -o requirements/feast-suite.txt pyproject.toml requirements/feast-suite.in
	$(BIN)/uv pip compile --quiet --upgrade $(LOCK) $(SMALL) -c requirements/dev.txt -o requirements/runtime.txt pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade $(LOCK) $(SMALL) -c requirements/dev.txt -o requirements/service.txt requirements/service.in
	$(BIN)/uv pip compile --quiet --upgrade $(LOCK) -o requirements/setup.txt requirements/setup.in

LOCK := --python-version 3.11 --universal --generate-hashes --no-emit-index-url --custom-compile-command 'make lock'
# Images have no graphics card to train on.
SMALL := --no-emit-package nvidia-nccl-cu12

images:               ## build the two images, tagged TAG
	for image in pipelines service; do docker build --file docker/$$image.Dockerfile --build-arg REVISION=$(REVISION) \
	  --build-arg RELEASE=$(TAG) --tag millwright-$$image:$(TAG) . || exit; done

push:                 ## push the two images to REGISTRY
	for image in pipelines service; do docker tag millwright-$$image:$(TAG) $(REGISTRY)/millwright-$$image:$(TAG) \
	  && docker push $(REGISTRY)/millwright-$$image:$(TAG) || exit; done

manifests:            ## render the Kubernetes manifests of RELEASE into dist/manifests
	rm -rf dist && mkdir -p dist/manifests && cp -r docker/kubernetes dist/kubernetes
	find dist/kubernetes/overlays -name '*.yaml' -exec sed -i -E \
	  -e '/# release$$/s/\bv[0-9]+\b/$(RELEASE)/' -e 's#registry\.example\.org#$(REGISTRY)#' {} +
	for overlay in staging production; do kubectl kustomize dist/kubernetes/overlays/$$overlay \
	  > dist/manifests/$$overlay.yaml || exit; done

benchmark: $(READY)   ## measure what the README claims of speed; SIZE=quick is a first look
	mkdir -p .millwright/benchmarks
	$(BIN)/python -m millwright benchmark all --size $(SIZE) --json .millwright/benchmarks/$(SIZE).json

feast-suite: .venv/feast-suite ## Feast's own tests of offline stores, on ours; FEAST=its repository
	.venv/feast-suite/bin/python tests/feast_suite --feast $(FEAST) -n 2

.venv/feast-suite: $(READY) requirements/feast-suite.txt
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $@
	VIRTUAL_ENV=$@ $(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements/feast-suite.txt
	VIRTUAL_ENV=$@ $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

plan: $(READY)        ## what `feast apply` would change
	cd feature_repo && ../$(BIN)/feast plan

stack-check: $(READY) ## check the files of the production stack
	$(BIN)/python run.py --stack production --check-form

clean:                ## stop servers and remove all run-time state; the virtual environment stays
	for stack in local staging; do [ ! -d .millwright/$$stack ] || $(BIN)/python -m millwright serve --stop --stack $$stack; done
	[ ! -d .millwright/staging/services ] || $(BIN)/python -m millwright services down
	rm -rf .millwright
	mkdir -p .millwright/local

.PHONY: help run staging test quick check setup lock images push manifests benchmark feast-suite plan
.PHONY: stack-check clean
