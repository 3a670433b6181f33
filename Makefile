# Thin front for newcomers; CMake presets do the work. See README.md.
.DEFAULT_GOAL := help
BUILD := build/release
JOBS ?= $(shell nproc)

.PHONY: help deps build demo test fuzz soak bench docs format lint install package clean

help: ## this text
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' Makefile

deps: ## install the Debian packages that are missing
	@scripts/install-deps

build: deps ## build the release preset into build/release
	@scripts/build release $(JOBS)

demo: build ## two clusters, one global service, failover; ETCD=real runs etcd processes
	@scripts/demo $(BUILD)/bin $(or $(ETCD),embedded)

test: deps ## build and run every test: release, then the sanitizer presets
	@scripts/test $(JOBS)

fuzz: deps ## run each fuzz target of tests/fuzz for SECONDS (60) with libFuzzer
	@scripts/fuzz $(or $(SECONDS),60) $(JOBS)

soak: build ## mesh-proxy under kills, cuts and stalls for MINUTES (5); SEED=7 replays
	@$(BUILD)/bin/soak --seconds $$(( $(or $(MINUTES),5) * 60 )) $(if $(SEED),--seed $(SEED))

bench: build ## benchmarks beside their peers; JSON in build/bench
	@scripts/bench $(BUILD)/bin

docs: deps ## the reference of the public headers, in build/release/docs/html
	@scripts/build release $(JOBS) docs

format: ## clang-format over our sources
	@git ls-files '*.cpp' '*.hpp' '*.c' '*.h' | xargs clang-format -i

lint: deps ## include direction, formatting, clang-tidy on changed files
	@scripts/lint

install: build ## install into DESTDIR/PREFIX (default /usr/local)
	@cmake --install $(BUILD) --prefix $(or $(PREFIX),/usr/local)

package: build ## Debian packages in build/release/packages
	@packaging/make_packages $(BUILD)

clean: ## remove build/
	@rm -rf build
