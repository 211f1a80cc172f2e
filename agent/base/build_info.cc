// SPDX-License-Identifier: Apache-2.0
#include "agent/base/build_info.h"

namespace weir {

std::string_view build_id() { return WEIR_BUILD_ID; }

}  // namespace weir
