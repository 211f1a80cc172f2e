// SPDX-License-Identifier: Apache-2.0
#include "agent/ctl/replay/trace_date.h"

#include <cstddef>
#include <cstdint>

namespace weir::replay {
namespace {

namespace chrono = std::chrono;

constexpr std::size_t kMostFractionDigits = 9;

/// Takes what it reads off the front; once something was not there, nothing is.
class Front {
 public:
  explicit Front(std::string_view text) : left_(text) {}

  unsigned digits(std::size_t count) {
    unsigned value = 0;
    for (std::size_t i = 0; i < count; ++i) value = value * 10 + digit();
    return value;
  }

  bool takes(char wanted) {
    if (!ok_ || left_.empty() || left_.front() != wanted) return false;
    left_.remove_prefix(1);
    return true;
  }
  void expect(char wanted) { ok_ = takes(wanted) && ok_; }

  /// Of a second, in nanoseconds.
  std::int64_t fraction() {
    std::int64_t value = 0;
    std::size_t count = 0;
    do {
      value = value * 10 + digit();
      ++count;
    } while (ok_ && count <= kMostFractionDigits && at_digit());
    if (count > kMostFractionDigits) ok_ = false;
    for (; count < kMostFractionDigits; ++count) value *= 10;
    return value;
  }

  void refuse_unless(bool right) { ok_ = ok_ && right; }
  [[nodiscard]] bool done() const { return ok_ && left_.empty(); }

 private:
  [[nodiscard]] bool at_digit() const {
    return !left_.empty() && left_.front() >= '0' && left_.front() <= '9';
  }
  unsigned digit() {
    if (!ok_ || !at_digit()) {
      ok_ = false;
      return 0;
    }
    const auto value = static_cast<unsigned>(left_.front() - '0');
    left_.remove_prefix(1);
    return value;
  }

  std::string_view left_;
  bool ok_ = true;
};

/// What is to be taken off a local time.
chrono::minutes read_zone(Front& front) {
  if (front.takes('Z')) return {};
  const bool east = front.takes('+');
  if (!east && !front.takes('-')) return {};
  const unsigned hours = front.digits(2);
  front.expect(':');
  const unsigned minutes = front.digits(2);
  front.refuse_unless(hours < 24 && minutes < 60);
  const chrono::minutes offset(hours * 60 + minutes);
  return east ? offset : -offset;
}

}  // namespace

std::optional<chrono::nanoseconds> read_date(std::string_view text) {
  Front front(text);
  const unsigned year = front.digits(4);
  front.expect('-');
  const unsigned month = front.digits(2);
  front.expect('-');
  const unsigned day = front.digits(2);
  if (!front.takes('T')) front.expect(' ');
  const unsigned hour = front.digits(2);
  front.expect(':');
  const unsigned minute = front.digits(2);
  front.expect(':');
  const unsigned second = front.digits(2);
  const std::int64_t fraction = front.takes('.') ? front.fraction() : 0;
  const chrono::minutes zone = read_zone(front);
  const chrono::year_month_day date{chrono::year(static_cast<int>(year)), chrono::month(month),
                                    chrono::day(day)};
  // A leap second is the first of the next minute.
  front.refuse_unless(year >= 1970 && year < 2200 && date.ok() && hour < 24 && minute < 60 &&
                      second <= 60);
  if (!front.done()) return std::nullopt;
  const auto at = chrono::sys_days(date).time_since_epoch() + chrono::hours(hour) +
                  chrono::minutes(minute) - zone + chrono::seconds(second);
  return chrono::nanoseconds(at) + chrono::nanoseconds(fraction);
}

}  // namespace weir::replay
