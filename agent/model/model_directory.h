// SPDX-License-Identifier: Apache-2.0
//
// The models in a folder: every *.gguf is one, named by its file name without the extension.
//
// Thread-safe: free functions. Failures are errors that name the path.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "agent/base/result.h"

namespace weir::model {

inline constexpr std::size_t kLongestModelName = 128;

/// 1..kLongestModelName characters of [A-Za-z0-9._-].
[[nodiscard]] bool is_model_name(std::string_view name);

struct DirectoryScan {
  struct Model {
    std::string name;
    std::string path;
  };
  struct Skipped {
    std::string path;
    std::string reason;
  };
  std::vector<Model> models;  ///< by name
  std::vector<Skipped> skipped;
};

/// Not into folders below it. Links are followed.
Result<DirectoryScan> scan_model_directory(const std::string& directory);

}  // namespace weir::model
