# A short menu; the work is done by cargo and `cargo xtask`. Everything runs on a new Debian or Ubuntu machine
# with git, make and the Rust toolchain, as root or as a user with sudo.

# Some environments have neither: cron, containers, `env -i`.
HOME := $(or $(HOME),$(shell getent passwd "$$(id -u)" | cut -d: -f6))
export HOME
export PATH := $(HOME)/.cargo/bin:$(or $(PATH),/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
# One cache for the user who builds layers and for root, who mounts them.
export STRATOS_CACHE := $(or $(STRATOS_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/stratos)

# What only root may do: mounts, namespaces, cgroups. Building is never done as root for a user.
# sudo sets a PATH of its own, without cargo, in spite of -E.
ROOT := $(if $(filter 0,$(shell /usr/bin/id -u)),,sudo -E env "PATH=$(PATH)")

# Built together always: another choice of packages would build their dependencies again with other features.
BUILD := cargo build --release --locked -p stratos -p stratos-agent -p stratos-tests
BIN := $(or $(CARGO_TARGET_DIR),target)/release

.DEFAULT_GOAL := help
.PHONY: help run test dev lint layers clean setup

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

run: setup ## boot StratOS in a virtual machine, deploy the examples, invoke each cold and warm, print a table
	$(BUILD)
	$(BIN)/stratos image build
	$(BIN)/demo

test: ## everything that CI runs: format, clippy, tidy, licences, layers, all tests
	@sh scripts/setup.sh test
	cargo xtask ci

dev: setup ## keep a node running on this machine in the foreground; stop it with Ctrl-C
	$(BUILD)
	$(BIN)/stratos layer build
	$(ROOT) $(BIN)/stratosd --dev

lint: setup ## format, clippy, tidy, licences
	cargo xtask lint

layers: setup ## build the runtime layers
	$(BUILD)
	$(BIN)/stratos layer build

clean: ## remove what was built here; downloads and layers stay in the cache
	cargo clean

setup:
	@sh scripts/setup.sh run
	@command -v cargo >/dev/null || { echo "error: cargo is not on the PATH" >&2; \
	  echo "hint: install Rust with rustup; do not put sudo before make, it asks for sudo itself" >&2; exit 1; }
