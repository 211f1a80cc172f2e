// SPDX-License-Identifier: Apache-2.0
//
// Finds the handler for a method and a path.
//
// Thread-safety: filled first by one thread, then only read, by any.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "agent/serve/exchange.h"

namespace weir::serve {

/// Runs on an I/O thread; must not block.
using Handler = std::function<void(const std::shared_ptr<Exchange>&)>;

struct Route {
  std::string method;   ///< GET routes answer HEAD too
  std::string pattern;  ///< "/v1/models" or, with one segment free, "/v1/models/{id}"
  Handler handler;
};

class Router {
 public:
  struct Match {
    const Route* route = nullptr;
    std::size_t path_index = 0;  ///< into paths()
    std::string_view parameter;  ///< part of the path given to find()
  };
  struct WrongMethod {
    std::size_t path_index = 0;
    std::string allow;  ///< value of the Allow header
  };
  struct NoSuchPath {};

  void add(std::string method, std::string pattern, Handler handler);

  [[nodiscard]] std::variant<Match, WrongMethod, NoSuchPath> find(std::string_view method,
                                                                  std::string_view path) const;

  /// Distinct patterns in the order of their addition; what metrics are labelled with.
  [[nodiscard]] const std::vector<std::string>& paths() const { return paths_; }
  /// "GET /healthz, POST /infer, ...": for people who asked for something else.
  [[nodiscard]] std::string listing() const;

 private:
  std::vector<Route> routes_;
  std::vector<std::string> paths_;
};

}  // namespace weir::serve
