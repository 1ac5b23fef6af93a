# Farshore: every target installs what it needs first, on a Debian machine with a Rust toolchain.
#
# One profile (release) for everything: RocksDB takes a quarter of an hour to build, and is built once. What is built
# lies outside the checkout, so that a clean clone starts warm; FARSHORE_TARGET_DIR moves it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export CARGO_TARGET_DIR := $(or $(FARSHORE_TARGET_DIR),$(HOME)/.cache/farshore/target)
# ccache by PATH only: naming it in CC or CXX would change cargo's fingerprints and rebuild RocksDB.
export PATH := /usr/lib/ccache:$(PATH):$(HOME)/.cargo/bin
# .ci/run sets --locked.
CARGO_FLAGS ?=

.PHONY: help
help: ## List the targets
	@echo 'make TARGET, with TARGET one of:'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo 'What is built goes to $(CARGO_TARGET_DIR)'

.PHONY: demo
demo: deps-demo ## Three sites, PostgreSQL on one volume, a site killed: nothing is lost (root, two minutes)
	cargo build --release --workspace --bins $(CARGO_FLAGS)
	@$(CARGO_TARGET_DIR)/release/farshore-demo --bin-dir $(CARGO_TARGET_DIR)/release

.PHONY: test
test: deps-test ## Every test; ends with "N passed, M failed, K skipped"
	@CARGO_FLAGS='$(CARGO_FLAGS)' tests/run

.PHONY: sim
sim: deps-build ## Run the protocol under seeded faults: SEEDS=n or SEEDS=A..B
	cargo run --release $(CARGO_FLAGS) -p farshore-sim -- --seeds $(or $(SEEDS),2000) --keep-going

.PHONY: sabotage
sabotage: deps-build ## Break the protocol in every known way; each must be caught
	cargo run --release $(CARGO_FLAGS) -p farshore-sabotage

.PHONY: soak
soak: deps-test ## Real daemons under verified load, killed, cut off, without power: MINUTES=n SEED=s (root)
	cargo build --release --workspace --bins $(CARGO_FLAGS)
	@$(CARGO_TARGET_DIR)/release/farshore-soak --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

.PHONY: model
model: deps-build ## Try every history of the protocol's model within wide bounds (long)
	cargo run --release $(CARGO_FLAGS) -p farshore-model -- --larger

.PHONY: bench
bench: deps-bench ## Speed beside the limits of disk and network, into benches/report: QUICK=1 for three minutes of it, SECONDS=n per row (root)
	cargo build --release --workspace --bins $(CARGO_FLAGS)
	@FARSHORE_BENCH_COMMAND='make bench$(if $(QUICK), QUICK=1)$(if $(SECONDS), SECONDS=$(SECONDS))' \
	  $(CARGO_TARGET_DIR)/release/farshore-bench --out benches/report $(if $(SECONDS),--seconds $(SECONDS)) \
	  $(if $(QUICK),--quick,--readme README.md)

.PHONY: csi-sanity
csi-sanity: deps-test ## The Container Storage Interface's own suite against the driver and three sites (root, Go)
	cargo build --release -p farshore-csi -p farshore-replicator -p farshore-cli $(CARGO_FLAGS)
	@BIN_DIR=$(CARGO_TARGET_DIR)/release tests/csi-sanity/run

.PHONY: test-vm
test-vm: deps-vm deps-build ## The kernel's own NBD client in a qemu guest, its replicator killed under fio: BIN_DIR=programs that are built
	$(if $(BIN_DIR),,cargo build --release -p farshore-replicator -p farshore-device -p farshore-cli $(CARGO_FLAGS))
	@BIN_DIR='$(or $(BIN_DIR),$(CARGO_TARGET_DIR)/release)' tests/vm/run

.PHONY: fuzz
fuzz: deps-build ## Foreign bytes for every decoder, so long each: SECONDS=60
	@CARGO_FLAGS='$(CARGO_FLAGS)' fuzz/run $(or $(SECONDS),60)

.PHONY: chart
chart: ## The Helm chart and the kustomize base, without a cluster; FARSHORE_BLESS=1 writes the base anew
	@tests/chart/run

.PHONY: images
images: deps-images deps-build ## Container images on a Debian base made here, into ~/.cache/farshore/images: BIN_DIR=programs that are built (root)
	$(if $(BIN_DIR),,cargo build --release --workspace --bins $(CARGO_FLAGS))
	@BIN_DIR='$(BIN_DIR)' deploy/images/build

.PHONY: pods
pods: ## The images as the chart runs them, without Kubernetes, under the suite of CSI (root; after images, chart and csi-sanity)
	@tests/chart/pods

.PHONY: e2e
e2e: deps-e2e images ## Two real Kubernetes clusters on this machine, one of them killed; BIN_DIR as for images (root, Go, half an hour the first time)
	@BIN_DIR='$(or $(BIN_DIR),$(CARGO_TARGET_DIR)/release)' tests/e2e/run

.PHONY: fmt
fmt: ## Format the sources
	cargo fmt --all
	cargo fmt --manifest-path fuzz/Cargo.toml

.PHONY: fmt-check
fmt-check: ## Fail where the sources are not formatted
	cargo fmt --all --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check

.PHONY: lint
lint: deps-build ## clippy and rustdoc over everything, warnings are errors
	cargo clippy --release --workspace --all-targets $(CARGO_FLAGS) -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --release --workspace --no-deps $(CARGO_FLAGS)

.PHONY: deps
deps: deps-demo deps-test ## Install every Debian package that any target needs

.PHONY: deps-build deps-test deps-demo deps-bench deps-images deps-e2e deps-vm
deps-build deps-test deps-demo deps-bench deps-images deps-e2e deps-vm: deps-%:
	@tests/deps $*
