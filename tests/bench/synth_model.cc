// SPDX-License-Identifier: Apache-2.0
//
// weir-synth-model: writes a GGUF file with random weights in the shape of a real model.
// Exit status: 0, 1 when it could not be written, 2 for wrong arguments.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <string>

#include "tests/bench/synth_gguf.h"

int main(int argc, char** argv) {
  using namespace weir;
  using bench::ModelShape;
  constexpr auto kLlama = ModelShape::Architecture::kLlama;
  constexpr auto kBert = ModelShape::Architecture::kBert;
  // vocabulary, width, layers, heads, kv heads, ffn
  const std::map<std::string, ModelShape> shapes = {
      {"tiny", {kLlama, 1024, 128, 5, 4, 2, 384}},          // that of the shipped model
      {"135m", {kLlama, 49'152, 576, 30, 9, 3, 1536}},      // SmolLM2 135M
      {"0.5b", {kLlama, 151'936, 896, 24, 14, 2, 4864}},    // Qwen2.5 0.5B
      {"1.1b", {kLlama, 32'000, 2048, 22, 32, 4, 5632}},    // TinyLlama 1.1B
      {"bert-tiny", {kBert, 1024, 128, 2, 4, 4, 256}},      //
      {"bert-22m", {kBert, 30'528, 384, 6, 12, 12, 1536}},  // MiniLM L6
  };
  bench::SynthOptions options;
  options.tokenizer_path = "deploy/models/tiny-stories-1m-q8_0.gguf";
  std::string path;
  std::string shape;
  CLI::App app("random weights in the shape of a real model");
  app.add_option("out", path, "the file to write")->required();
  app.add_option("--shape", shape, "tiny, 135m, 0.5b, 1.1b; bert-tiny, bert-22m (embeddings)")
      ->required()
      ->check(CLI::IsMember(shapes));
  const std::map<std::string, ggml_type> types = {
      {"q8_0", GGML_TYPE_Q8_0}, {"q4_0", GGML_TYPE_Q4_0}, {"f16", GGML_TYPE_F16}};
  app.add_option("--type", options.type, "q8_0, q4_0 or f16")
      ->transform(CLI::CheckedTransformer(types));
  const std::map<std::string, enum llama_pooling_type> poolings = {
      {"mean", LLAMA_POOLING_TYPE_MEAN},
      {"cls", LLAMA_POOLING_TYPE_CLS},
      {"rank", LLAMA_POOLING_TYPE_RANK}};
  app.add_option("--pooling", options.pooling, "of bert shapes: mean, cls; rank (scores)")
      ->transform(CLI::CheckedTransformer(poolings));
  app.add_option("--context", options.context_tokens, "what it says it was trained for")
      ->check(CLI::Range(16, 1 << 20));
  app.add_option("--seed", options.seed);
  app.add_option("--tokenizer", options.tokenizer_path, "a GGUF file to take the tokenizer from");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  options.shape = shapes.at(shape);
  const auto report = bench::write_synthetic_model(path, options);
  if (!report) {
    std::fprintf(stderr, "weir-synth-model: %s\n", report.error().message.c_str());
    return 1;
  }
  std::printf("%s: %.1f M parameters, %.1f MB\n", path.c_str(),
              static_cast<double>(report->parameters) / 1e6,
              static_cast<double>(report->bytes) / 1e6);
  return 0;
}
