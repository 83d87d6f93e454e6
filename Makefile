# Everything that people and machines call. `make` alone says what there is.

.DEFAULT_GOAL := help
.PHONY: help setup build lint test soak bench demo demo-clean lab-up lab-down lab-status clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

setup: ## install what is missing (Debian packages, npm modules)
	@scripts/setup.sh

build: setup ## compile to build/
	@npm run --silent build

lint: build ## style and the import rule
	@npm run --silent lint

test: setup ## all tests; the last line counts them
	@npm run --silent build; node build/test/support/run-suites.js --build-status=$$?

soak: setup ## the same fault campaigns, much longer
	@npm run --silent build; DR_SOAK=1 node build/test/support/run-suites.js --build-status=$$? --soak

bench: build ## us and other programs side by side (root); BENCH='--only full --json'
	@test/bench/setup.sh; node build/test/bench/main.js $(BENCH)

demo: build ## watch real guests being imaged, rotated and booted from the copy
	@scripts/demo.sh

demo-clean: ## remove everything that the demo made
	@scripts/demo.sh --clean

lab-up: build ## bring up the lab by hand (root)
	@npm run --silent lab -- up

lab-down: ## take it down
	@npm run --silent lab -- down --all

lab-status: ## which labs and hosts are up
	@npm run --silent lab -- status

clean: ## forget what was compiled
	@rm -rf build
