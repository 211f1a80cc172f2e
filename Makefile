# SPDX-License-Identifier: Apache-2.0
#
# The only entry point. `make help` lists the targets; all output goes below build/.

BUILD    ?= build
CXX      := g++
CLANG    ?= clang
BPFTOOL  ?= $(firstword $(wildcard /usr/sbin/bpftool) bpftool)
PROTOC   ?= protoc
PYTHON   ?= /usr/bin/python3
JOBS     ?= $(shell nproc)
OPT      ?= -O2
SANITIZE ?=

.DEFAULT_GOAL := build
.DELETE_ON_ERROR:
.SECONDARY:
MAKEFLAGS += --no-builtin-rules --no-print-directory
ifeq ($(MAKELEVEL)$(filter -j%,$(MAKEFLAGS)),0)
MAKEFLAGS += -j$(JOBS)
endif

ifeq ($(V),1)
Q :=
msg =
else
Q := @
msg = @printf '  %-8s %s\n' '$(1)' '$(2)';
endif

# ---- what there is ----------------------------------------------------------------------------

# The agent's folders, in the order in which they may depend on each other. MODULES="base kernel"
# builds and tests only those.
MODULES  ?= base config kernel health balance schedule admit model upstream telemetry serve ctl ctl/replay
CTL_SRC  := agent/ctl/main.cc
LIB_SRC  := $(filter-out $(CTL_SRC),$(foreach m,$(MODULES),$(wildcard agent/$(m)/*.cc)))
UNIT_SRC := $(foreach m,$(MODULES),$(wildcard tests/unit/$(m)/*_test.cc))
BPF_TEST_SRC := $(wildcard tests/bpf/*_test.cc)
FIX_SRC  := $(wildcard tests/fixtures/*.cc) tests/bench/synth_gguf.cc
# The programs on listeners live and end with sockets: an object of their own.
BPF_LISTEN := bpf/listen.bpf.c
BPF_SRC  := $(filter-out $(BPF_LISTEN),$(wildcard bpf/*.bpf.c))
PROTO    := $(wildcard include/weir/proto/weir/v1/*.proto)

OBJ      := $(BUILD)/obj
GEN      := $(BUILD)/gen
BIN      := $(BUILD)/bin
LIB_OBJ  := $(LIB_SRC:%.cc=$(OBJ)/%.o)
CTL_OBJ  := $(CTL_SRC:%.cc=$(OBJ)/%.o)
UNIT_OBJ := $(UNIT_SRC:%.cc=$(OBJ)/%.o)
BPF_TEST_OBJ := $(BPF_TEST_SRC:%.cc=$(OBJ)/%.o)
FIX_OBJ  := $(FIX_SRC:%.cc=$(OBJ)/%.o)
PROTO_OBJ := $(PROTO:include/weir/proto/%.proto=$(OBJ)/gen/%.pb.o)
PROTO_HDR := $(PROTO:include/weir/proto/%.proto=$(GEN)/%.pb.h)
SKEL     := $(GEN)/weir.skel.h
SKEL_LISTEN := $(GEN)/weir_listen.skel.h
SKEL_OLDER := $(GEN)/older.skel.h

# ---- libllama: the machine's, or built once from a pinned source ------------------------------

THIRD_PARTY  ?= build/third_party
LLAMA_VERSION := 0.5.0
LLAMA_SYSTEM := $(shell pkg-config --exists llama 2>/dev/null && echo yes)
ifdef WEIR_LLAMA_PREFIX
LLAMA_PREFIX := $(WEIR_LLAMA_PREFIX)
else ifneq ($(LLAMA_SYSTEM),yes)
LLAMA_PREFIX := $(THIRD_PARTY)/llama-$(LLAMA_VERSION)
LLAMA_READY  := $(LLAMA_PREFIX)/.built
endif
ifdef LLAMA_PREFIX
LLAMA_CFLAGS = -isystem $(LLAMA_PREFIX)/include
LLAMA_LIBDIR := $(LLAMA_PREFIX)/lib
else
LLAMA_CFLAGS = $(shell pkg-config --cflags llama | sed 's/-I/-isystem /g')
LLAMA_LIBDIR := $(shell pkg-config --variable=libdir llama)
endif
# Static libraries need one another and the CPU backend; shared ones have it inside or beside them.
LLAMA_LIBS = -L$(LLAMA_LIBDIR) -Wl,-rpath,$(abspath $(LLAMA_LIBDIR)) -Wl,--start-group -lllama -lggml \
             $(shell ls $(LLAMA_LIBDIR)/libggml-cpu.* >/dev/null 2>&1 && echo -lggml-cpu) -lggml-base -Wl,--end-group -lgomp

# ---- flags ------------------------------------------------------------------------------------

# Under sudo the tree may belong to somebody else than root.
GIT      := git -c safe.directory='*'
BUILD_ID := $(shell $(GIT) describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
WARN     := -Wall -Wextra -Wshadow -Wconversion -Wsign-conversion -Werror
CPPFLAGS += -I. -Iinclude -Ibpf -isystem $(GEN) $(LLAMA_CFLAGS) -DSPDLOG_COMPILED_LIB -DSPDLOG_FMT_EXTERNAL \
            -DBOOST_ASIO_NO_DEPRECATED
CXXFLAGS += -std=c++20 $(OPT) -g1 -fno-omit-frame-pointer -pthread $(WARN) $(SANITIZE)
LDFLAGS  += -pthread $(SANITIZE)
LIBS     = $(LLAMA_LIBS) -lbpf -lelf -lz -lyaml-cpp -lprotobuf -lspdlog -lfmt -lboost_json
BPF_CFLAGS := -target bpf -mcpu=v3 -g -O2 -Wall -Wextra -Werror -Wpadded -Wno-unused-parameter \
              -Ibpf -Iinclude -D__TARGET_ARCH_$(shell uname -m | sed 's/x86_64/x86/;s/aarch64/arm64/')

# ---- build ------------------------------------------------------------------------------------

.PHONY: build bin deps
build: deps ## install what is missing and build everything
	$(Q)$(MAKE) bin

# The compiler and the libraries must be there before anything below is looked at.
deps:
	$(Q)deploy/install-deps.sh $(DEPS_FLAGS)

bin: $(BIN)/weir-agent $(BIN)/weir $(BIN)/weir-load-trial

# Cached by version: a checkout that touches the script does not build it again.
$(LLAMA_PREFIX)/.built:
	$(Q)deploy/build-llama.sh $(abspath $(LLAMA_PREFIX))

$(GEN)/%.pb.cc $(GEN)/%.pb.h &: include/weir/proto/%.proto
	$(call msg,PROTO,$<)
	$(Q)mkdir -p $(GEN) && $(PROTOC) -Iinclude/weir/proto --cpp_out=$(GEN) $<

$(OBJ)/gen/%.pb.o: $(GEN)/%.pb.cc
	$(call msg,CXX,$<)
	$(Q)mkdir -p $(@D) && $(CXX) $(CPPFLAGS) $(filter-out $(WARN),$(CXXFLAGS)) -c $< -o $@

$(OBJ)/bpf/%.o: bpf/%.c
	$(call msg,BPF,$<)
	$(Q)mkdir -p $(@D) && $(CLANG) $(BPF_CFLAGS) -MMD -MP -MF $(@:.o=.d) -c $< -o $@

$(OBJ)/weir.bpf.o: $(BPF_SRC:bpf/%.c=$(OBJ)/bpf/%.o)
	$(call msg,BPFLINK,$@)
	$(Q)$(BPFTOOL) gen object $@ $^

$(SKEL): $(OBJ)/weir.bpf.o
	$(call msg,SKEL,$@)
	$(Q)mkdir -p $(@D) && $(BPFTOOL) gen skeleton $< name weir_bpf > $@

$(SKEL_LISTEN): $(BPF_LISTEN:bpf/%.c=$(OBJ)/bpf/%.o)
	$(call msg,SKEL,$@)
	$(Q)mkdir -p $(@D) && $(BPFTOOL) gen skeleton $< name weir_listen_bpf > $@

$(OBJ)/tests/%.bpf.o: tests/%.bpf.c
	$(call msg,BPF,$<)
	$(Q)mkdir -p $(@D) && $(CLANG) $(BPF_CFLAGS) -MMD -MP -MF $(@:.o=.d) -c $< -o $@

$(SKEL_OLDER): $(OBJ)/tests/bpf/fixtures/older.bpf.o
	$(call msg,SKEL,$@)
	$(Q)mkdir -p $(@D) && $(BPFTOOL) gen skeleton $< name older_bpf > $@

# Generated headers exist before the first compilation; -MD knows them afterwards (-MMD would leave
# them out, because they are found through -isystem).
$(OBJ)/%.o: %.cc | $(PROTO_HDR) $(SKEL) $(SKEL_LISTEN) $(SKEL_OLDER) $(LLAMA_READY)
	$(call msg,CXX,$<)
	$(Q)mkdir -p $(@D) && $(CXX) $(CPPFLAGS) $(CXXFLAGS) -MD -MP -c $< -o $@

# The one file that knows the build id: it alone is compiled again when the commit changes.
$(OBJ)/agent/base/build_info.o: CPPFLAGS += -DWEIR_BUILD_ID='"$(BUILD_ID)"'
$(OBJ)/agent/base/build_info.o: $(BUILD)/build-id
$(BUILD)/build-id: FORCE
	$(Q)mkdir -p $(@D) && (echo '$(BUILD_ID)' | cmp -s - $@ || echo '$(BUILD_ID)' > $@)
.PHONY: FORCE

$(BUILD)/libweir.a: $(LIB_OBJ) $(PROTO_OBJ)
	$(call msg,AR,$@)
	$(Q)rm -f $@ && ar rcs $@ $^

$(BIN)/weir-agent: $(OBJ)/agent/main.o $(OBJ)/agent/agent.o $(OBJ)/agent/stage_options.o \
                    $(OBJ)/agent/takeover.o $(BUILD)/libweir.a
	$(call msg,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CXX) $(LDFLAGS) $^ $(LIBS) -o $@

$(BIN)/weir: $(CTL_OBJ) $(BUILD)/libweir.a
	$(call msg,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CXX) $(LDFLAGS) $^ $(LIBS) -o $@

# Found beside whatever loads a model.
$(BIN)/weir-load-trial: $(OBJ)/agent/model/trial/main.o $(BUILD)/libweir.a
	$(call msg,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CXX) $(LDFLAGS) $^ $(LLAMA_LIBS) -lspdlog -lfmt -o $@

$(BIN)/weir-unit-tests: $(UNIT_OBJ) $(FIX_OBJ) $(BUILD)/libweir.a | $(BIN)/weir-load-trial
	$(call msg,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CXX) $(LDFLAGS) $^ $(LIBS) -lgmock -lgtest -o $@

$(BIN)/weir-bpf-tests: $(BPF_TEST_OBJ) $(FIX_OBJ) $(BUILD)/libweir.a
	$(call msg,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CXX) $(LDFLAGS) $^ $(LIBS) -lgmock -lgtest -o $@

# ---- run and test -----------------------------------------------------------------------------

CONFIG ?= deploy/config/weir.yaml
SUITES ?= unit bpf e2e model
TOOLS  := $(addprefix $(BIN)/,weir-delay-server weir-loadgen weir-connect-loop weir-ttfb-client weir-batch-sweep weir-dispatch weir-synth-model weir-stream-client)

TOOL_OBJ := $(OBJ)/tests/tools/http_head.o $(OBJ)/tests/tools/socket.o

$(BIN)/weir-delay-server: $(OBJ)/tests/tools/delay_server.o $(TOOL_OBJ) $(BUILD)/libweir.a
	$(call msg,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CXX) $(LDFLAGS) $^ $(LIBS) -o $@

$(BIN)/weir-loadgen: $(OBJ)/tests/bench/loadgen.o $(OBJ)/tests/bench/load_generator.o $(TOOL_OBJ) $(BUILD)/libweir.a
	$(call msg,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CXX) $(LDFLAGS) $^ $(LIBS) -o $@

$(BIN)/weir-connect-loop: $(OBJ)/tests/bench/connect_loop.o $(TOOL_OBJ) $(BUILD)/libweir.a
	$(call msg,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CXX) $(LDFLAGS) $^ $(LIBS) -o $@

$(BIN)/weir-ttfb-client: $(OBJ)/tests/bench/ttfb_client.o $(TOOL_OBJ) $(BUILD)/libweir.a
	$(call msg,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CXX) $(LDFLAGS) $^ $(LIBS) -o $@

$(BIN)/weir-batch-sweep: $(OBJ)/tests/bench/batch_sweep.o $(BUILD)/libweir.a
	$(call msg,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CXX) $(LDFLAGS) $^ $(LIBS) -o $@

$(BIN)/weir-dispatch: $(OBJ)/tests/bench/dispatch.o $(BUILD)/libweir.a
	$(call msg,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CXX) $(LDFLAGS) $^ $(LIBS) -o $@

$(BIN)/weir-stream-client: $(OBJ)/tests/bench/stream_client.o $(TOOL_OBJ) $(BUILD)/libweir.a
	$(call msg,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CXX) $(LDFLAGS) $^ $(LIBS) -o $@

$(BIN)/weir-synth-model: $(OBJ)/tests/bench/synth_model.o $(OBJ)/tests/bench/synth_gguf.o
	$(call msg,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CXX) $(LDFLAGS) $^ $(LLAMA_LIBS) -o $@

.PHONY: tools run demo test test-unit test-bpf test-e2e test-model bench bench-steer bench-observe bench-batch bench-dispatch bench-http bench-overload bench-cancel bench-engine bench-embeddings bench-model-memory
tools: $(TOOLS)

run: build ## start the agent in the foreground (CONFIG=FILE), until Ctrl-C
	$(Q)exec $(BIN)/weir-agent --config $(CONFIG)

# Not after some minutes of building.
.PHONY: need-root
need-root:
	$(Q)[ "$$(id -u)" -eq 0 ] || { echo 'this needs root, to load kernel programs: sudo make $(MAKECMDGOALS)' >&2; exit 1; }

demo: need-root deps ## show the whole loop on this machine, then clean up (root)
	$(Q)$(MAKE) bin tools
	$(Q)WEIR_BIN=$(abspath $(BIN)) $(PYTHON) deploy/demo/demo.py

# What each suite needs.
NEEDS_unit  := $(BIN)/weir-unit-tests
NEEDS_bpf   := $(BIN)/weir-bpf-tests
NEEDS_e2e   := bin tools
NEEDS_model := deps

test: deps ## build and run every test (root for bpf and e2e)
	$(Q)$(MAKE) $(foreach suite,$(SUITES),$(NEEDS_$(suite)))
	$(Q)WEIR_BIN=$(abspath $(BIN)) $(PYTHON) tests/run.py $(SUITES)

test-unit: ; $(Q)$(MAKE) test SUITES=unit ## unit tests only, no root
test-bpf: ; $(Q)$(MAKE) test SUITES=bpf ## kernel programs on real sockets (root)
test-e2e: ; $(Q)$(MAKE) test SUITES=e2e ## the whole agent, with foreign clients (root)
test-model: ; $(Q)$(MAKE) test SUITES=model ## the shipped model belongs to its program

.PHONY: program-sizes
program-sizes: $(BIN)/weir-bpf-tests ## write tests/bpf/program_sizes.txt anew (root)
	$(Q)$(BIN)/weir-bpf-tests --gtest_brief=1 --gtest_also_run_disabled_tests --gtest_filter='*.DISABLED_WriteTable'

BENCHES := steer observe batch dispatch http overload cancel engine embeddings model-memory

# One after the other: two at once would measure each other.
bench: ## every benchmark (root)
	$(Q)for name in $(BENCHES); do $(MAKE) bench-$$name || exit 1; done

bench-steer: ## what steering, observing and a pick cost, beside one nginx proxy (root)
bench-observe: ## the kernel's time to first byte against the client's own clock (root)
bench-batch: ## throughput and p99 of the batching policies, over window, size and load
bench-dispatch: ## what a task costs in the worker pool and how long it waits, beside Go's scheduler
bench-http: ## what the HTTP front makes of an identity model, beside a service in Go
bench-overload: ## ten times the load that an agent can serve: refusals, latencies, fairness, memory
bench-cancel: ## how long after its client has gone a request still takes a place
bench-embeddings: llama-peers ## texts embedded per second, beside llama-server and without batches
bench-engine: llama-peers ## tokens per second and latencies beside llama-server and llama-batched-bench
bench-model-memory: ## loading a model again beside reading its file, and what stays of it
$(BENCHES:%=bench-%): bench-%:
	$(Q)deploy/install-deps.sh --bench
	$(Q)$(MAKE) bin tools
	$(Q)WEIR_BIN=$(abspath $(BIN)) WEIR_LLAMA_PEERS=$(LLAMA_PEERS) $(PYTHON) tests/bench/bench_$(subst -,_,$*).py

# Without them the bench prints the agent's own figures.
.PHONY: llama-peers
LLAMA_PEERS := $(abspath $(or $(WEIR_LLAMA_PEERS),$(THIRD_PARTY)/llama-$(LLAMA_VERSION)-peers))
llama-peers:
	$(Q)[ -x $(LLAMA_PEERS)/bin/llama-server ] || deploy/build-llama.sh --peers $(LLAMA_PEERS) || true

.PHONY: bench-storm
bench-storm: deps ## a minute of everything that applications do to sockets: no gauge loses count (root)
	$(Q)$(MAKE) $(NEEDS_bpf)
	$(Q)WEIR_STORM_SECONDS=60 $(NEEDS_bpf) --gtest_filter='*Storm.LeavesEveryGaugeAtZero*'

# Only what reads the input is instrumented; the rest comes from the library.
CLANGXX      ?= clang++
FUZZ_SECONDS ?= 30
FUZZ_FLAGS   := -std=c++20 -O1 -g1 -fno-omit-frame-pointer -pthread -fsanitize=fuzzer,address
FUZZ_OBJ     := $(patsubst %.cc,$(OBJ)/fuzz/%.o,tests/fuzz/config_fuzz.cc $(wildcard agent/config/*.cc))

$(OBJ)/fuzz/%.o: %.cc | $(PROTO_HDR)
	$(call msg,FUZZ,$<)
	$(Q)mkdir -p $(@D) && $(CLANGXX) $(CPPFLAGS) $(FUZZ_FLAGS) -MD -MP -c $< -o $@

$(BIN)/weir-fuzz-config: $(FUZZ_OBJ) $(BUILD)/libweir.a
	$(call msg,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CLANGXX) $(FUZZ_FLAGS) $^ $(LIBS) -o $@

GGUF_FUZZ_OBJ := $(patsubst %.cc,$(OBJ)/fuzz/%.o,tests/fuzz/gguf_fuzz.cc tests/fixtures/gguf_writer.cc \
                 $(wildcard agent/model/gguf_*.cc agent/model/printable.cc agent/model/text_assembler.cc))

$(BIN)/weir-fuzz-gguf: $(GGUF_FUZZ_OBJ) $(BUILD)/libweir.a
	$(call msg,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CLANGXX) $(FUZZ_FLAGS) $^ $(LIBS) -o $@

TRACE_FUZZ_OBJ := $(patsubst %.cc,$(OBJ)/fuzz/%.o,tests/fuzz/trace_fuzz.cc \
                  agent/ctl/replay/trace_reader.cc agent/ctl/replay/trace_date.cc \
                  agent/ctl/replay/line_source.cc)

$(BIN)/weir-fuzz-trace: $(TRACE_FUZZ_OBJ) $(BUILD)/libweir.a
	$(call msg,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CLANGXX) $(FUZZ_FLAGS) $^ $(LIBS) -o $@

.PHONY: fuzz fuzz-config fuzz-trace fuzz-gguf need-clang++
# Debian only recommends the runtime beside clang.
need-clang++: deps
	$(Q)command -v $(CLANGXX) >/dev/null || { echo '$(CLANGXX) is missing: apt-get install clang' >&2; exit 1; }
	$(Q)find "$$($(CLANGXX) -print-resource-dir)/lib" -name 'libclang_rt.fuzzer*' 2>/dev/null | grep -q . || { \
	  echo "the fuzzers need the runtime of $(CLANGXX): apt-get install libclang-rt-$$($(CLANGXX) -dumpversion | cut -d. -f1)-dev" >&2; exit 1; }

fuzz: fuzz-config fuzz-trace fuzz-gguf ## every fuzzer, FUZZ_SECONDS=30 each

# What it finds that is new stays in build/fuzz/config, beside the seeds; a text that fails too.
fuzz-config: need-clang++ ## feed the configuration reader with mutated texts, under ASan
	$(Q)$(MAKE) $(BIN)/weir-fuzz-config
	$(Q)mkdir -p $(BUILD)/fuzz/config
	$(Q)$(BIN)/weir-fuzz-config -max_total_time=$(FUZZ_SECONDS) -timeout=10 -max_len=16384 -verbosity=0 \
	  -print_final_stats=1 -artifact_prefix=$(BUILD)/fuzz/ $(BUILD)/fuzz/config tests/fuzz/config

fuzz-trace: need-clang++ ## the same with the reader of traces to replay
	$(Q)$(MAKE) $(BIN)/weir-fuzz-trace
	$(Q)mkdir -p $(BUILD)/fuzz/trace
	$(Q)$(BIN)/weir-fuzz-trace -max_total_time=$(FUZZ_SECONDS) -timeout=10 -max_len=16384 -verbosity=0 \
	  -print_final_stats=1 -artifact_prefix=$(BUILD)/fuzz/ $(BUILD)/fuzz/trace tests/fuzz/trace

# First a million by numbers, of which 2000 that pass the check are tried in a child; then by what
# covers more of the code, under ASan. The seed is the metadata of the shipped model.
fuzz-gguf: need-clang++ ## judge damaged model files: a million, and FUZZ_SECONDS=30 more under ASan
	$(Q)$(MAKE) $(NEEDS_unit) $(BIN)/weir-fuzz-gguf
	$(Q)WEIR_GGUF_MUTATIONS=1000000 WEIR_GGUF_TRIALS=2000 $(NEEDS_unit) --gtest_filter='GgufMutation.*'
	$(Q)mkdir -p $(BUILD)/fuzz/gguf
	$(Q)head -c 31616 deploy/models/tiny-stories-1m-q8_0.gguf > $(BUILD)/fuzz/gguf/shipped
	$(Q)$(BIN)/weir-fuzz-gguf -max_total_time=$(FUZZ_SECONDS) -timeout=10 -max_len=65536 -verbosity=0 \
	  -print_final_stats=1 -artifact_prefix=$(BUILD)/fuzz/ $(BUILD)/fuzz/gguf

# ---- care -------------------------------------------------------------------------------------

SOURCES := $(shell $(GIT) ls-files 'agent/*.cc' 'agent/*.h' 'tests/*.cc' 'tests/*.h' 2>/dev/null)

.PHONY: asan tsan need-clang-format fmt lint install uninstall clean help
asan: ## unit tests under AddressSanitizer and UBSan
	$(Q)$(MAKE) test-unit BUILD=$(BUILD)/asan SANITIZE='-fsanitize=address,undefined -fno-sanitize-recover=undefined -Wno-maybe-uninitialized'

tsan: ## unit tests under ThreadSanitizer
	$(Q)$(MAKE) test-unit BUILD=$(BUILD)/tsan SANITIZE='-fsanitize=thread -Wno-tsan'

need-clang-format:
	$(Q)command -v clang-format >/dev/null || { echo 'clang-format is missing: apt-get install clang-format' >&2; exit 1; }

fmt: need-clang-format ## format the sources
	$(Q)clang-format -i $(SOURCES)

lint: need-clang-format ## fail when a source is not formatted; clang-tidy when it is installed
	$(Q)clang-format --dry-run --Werror $(SOURCES)
	$(Q)! command -v clang-tidy >/dev/null || clang-tidy --quiet $(filter %.cc,$(SOURCES)) -- $(CPPFLAGS) -std=c++20

PREFIX ?= /usr/local
install: build ## install weir-agent, weir, the configuration and the model below PREFIX
	install -D -m 755 $(BIN)/weir-agent $(DESTDIR)$(PREFIX)/sbin/weir-agent
	install -D -m 755 $(BIN)/weir $(DESTDIR)$(PREFIX)/bin/weir
	install -D -m 755 $(BIN)/weir-load-trial $(DESTDIR)$(PREFIX)/libexec/weir/weir-load-trial
	install -D -m 644 deploy/config/weir.yaml $(DESTDIR)$(PREFIX)/share/weir/config/weir.yaml
	install -D -m 644 deploy/models/tiny-stories-1m-q8_0.gguf $(DESTDIR)$(PREFIX)/share/weir/models/tiny-stories-1m-q8_0.gguf

uninstall: ## remove what install put there
	rm -rf $(DESTDIR)$(PREFIX)/sbin/weir-agent $(DESTDIR)$(PREFIX)/bin/weir \
	  $(DESTDIR)$(PREFIX)/libexec/weir $(DESTDIR)$(PREFIX)/share/weir

clean: ## remove build/ except the third-party libraries
	$(Q)find $(BUILD) -mindepth 1 -maxdepth 1 ! -name third_party -exec rm -rf {} +

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' Makefile

-include $(wildcard $(shell [ -d $(OBJ) ] && find $(OBJ) -name '*.d'))
