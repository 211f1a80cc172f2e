// SPDX-License-Identifier: Apache-2.0
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <cmath>
#include <ctime>

#include "agent/base/build_info.h"
#include "agent/ctl/replay/report.h"
#include "agent/ctl/replay/svg_plot.h"

namespace weir::replay {
namespace {

constexpr const char* kStyle = R"(
:root{color-scheme:light dark;--fg:#1c2430;--mute:#68727f;--line:#dde2e8;--bg:#fff;--card:#f6f8fa;
--c0:#2563c9;--c1:#d9822b;--c2:#2f9e5b;--c3:#c93a4b;--c4:#8453c6;--c5:#1494a3;--c6:#8a6d3b;--c7:#6b7280}
@media(prefers-color-scheme:dark){:root{--fg:#e4e8ee;--mute:#98a2b0;--line:#343c47;--bg:#14181e;
--card:#1c222a;--c0:#6aa1f4;--c1:#f0a558;--c2:#5fc98a;--c3:#f07582;--c4:#b38cf0;--c5:#52c7d4;
--c6:#c9a66b;--c7:#a3abb8}}
*{box-sizing:border-box}body{margin:0 auto;max-width:1540px;padding:24px;background:var(--bg);
color:var(--fg);font:15px/1.5 system-ui,sans-serif}h1{font-size:22px;margin:0}h2{font-size:17px;
margin:32px 0 8px}p{margin:4px 0;color:var(--mute)}.warn{color:var(--c3)}
.tiles{display:flex;flex-wrap:wrap;gap:12px;margin:20px 0}.tile{background:var(--card);
border-radius:8px;padding:10px 16px;min-width:130px}.tile b{display:block;font-size:20px;
font-variant-numeric:tabular-nums}.tile span{color:var(--mute);font-size:13px}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,560px),1fr));gap:16px}
figure{margin:0;background:var(--card);border-radius:8px;padding:12px}figcaption{font-weight:600}
svg{width:100%;height:auto;display:block}svg text{fill:var(--mute);font-size:12px}
.grid{stroke:var(--line)}.axis{stroke:var(--mute);fill:none}.line{fill:none;stroke-width:2;
stroke-linejoin:round}.area{opacity:.8}.none{padding:40px;text-align:center}
.legend{display:flex;flex-wrap:wrap;gap:14px;font-size:13px}.legend i{display:inline-block;
width:12px;height:12px;border-radius:3px;margin-right:5px;vertical-align:-1px}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;
font-size:14px}th,td{padding:4px 12px;text-align:right;border-bottom:1px solid var(--line);
white-space:nowrap}th:first-child,td:first-child{text-align:left}th{color:var(--mute);
font-weight:600})";

std::string style() {
  std::string out = kStyle;
  for (int i = 0; i < 8; ++i) {
    out += fmt::format(
        ".s{0}{{stroke:var(--c{0})}}.a{0}{{fill:var(--c{0})}}.b{0}{{background:"
        "var(--c{0})}}",
        i);
  }
  return out;
}

double to_ms(std::uint64_t ns) { return static_cast<double>(ns) / 1e6; }

std::string ms_text(std::optional<std::uint64_t> ns) {
  if (!ns) return "–";
  const double ms = to_ms(*ns);
  return fmt::format("{:.{}f}", ms, ms < 10 ? 2 : ms < 1000 ? 1 : 0);
}

/// Share against latency, as far as the samples tell nines apart.
Series percentile_curve(std::string name, std::size_t colour, const HdrHistogram& histogram) {
  Series series{std::move(name), colour, {}};
  if (histogram.count() == 0) return series;
  for (int step = 0; step <= 240; ++step) {
    const double above = std::pow(10, -step / 40.0);
    if (above * static_cast<double>(histogram.count()) < 1) break;
    series.points.emplace_back(1 - above, to_ms(*histogram.quantile(1 - above)));
  }
  return series;
}

/// Latency against the share that is not above it.
Series distribution(std::string name, std::size_t colour, const HdrHistogram& histogram) {
  Series series{std::move(name), colour, {}};
  if (histogram.count() == 0) return series;
  series.points.emplace_back(to_ms(*histogram.min()), 0);
  for (int step = 1; step <= 200; ++step) {
    const double share = step / 200.0;
    series.points.emplace_back(to_ms(*histogram.quantile(share)), share * 100);
  }
  return series;
}

template <typename Value>
Series timeline(std::string name, std::size_t colour, const Recorder& recorder, Value value) {
  Series series{std::move(name), colour, {}};
  const double length_s = std::chrono::duration<double>(recorder.slice()).count();
  double at_s = 0;
  for (const Slice& slice : recorder.slices()) {
    series.points.emplace_back(at_s, value(slice));
    at_s += length_s;
  }
  return series;
}

std::string plots(const Report& report) {
  const Recorder& recorder = *report.recorder;
  const Figures& all = recorder.all();
  const double per_s = 1 / std::chrono::duration<double>(recorder.slice()).count();
  const Axis percent{"share of requests", Scale::kNines};
  const Axis latency{"ms", Scale::kLog};
  std::string out = "<div class=\"plots\">\n";
  out += line_plot(
      "Latency by percentile", percent, latency,
      {percentile_curve("first token", 0, all.ttft_ns),
       percentile_curve("between tokens", 2, all.itl_ns), percentile_curve("answer", 4, all.e2e_ns),
       percentile_curve("refusal", 1, all.refusal_ns)});
  std::vector<Series> by_class;
  for (std::size_t i = 0; i < report.options.classes.size(); ++i) {
    const Figures& figures = recorder.classes()[i];
    by_class.push_back(distribution(report.options.classes[i].name, by_class.size(),
                                    report.options.stream ? figures.ttft_ns : figures.e2e_ns));
  }
  out += line_plot(report.options.stream ? "First token, distribution by class"
                                         : "Answers, distribution by class",
                   latency, {"% of answers"}, by_class);
  out += line_plot(
      "Requests over time", {"s"}, {"per second"},
      {timeline("offered", 7, recorder, [&](const Slice& s) { return s.offered * per_s; }),
       timeline("ok", 2, recorder, [&](const Slice& s) { return s.ok * per_s; })});
  out += stacked_plot(
      "Outcomes over time", "s", "per second",
      {timeline("ok", 2, recorder, [&](const Slice& s) { return s.ok * per_s; }),
       timeline("refused", 1, recorder, [&](const Slice& s) { return s.refused * per_s; }),
       timeline("errors", 3, recorder, [&](const Slice& s) { return s.errors * per_s; }),
       timeline("dropped here", 4, recorder, [&](const Slice& s) { return s.dropped * per_s; })});
  out += line_plot("Tokens generated over time", {"s"}, {"per second"},
                   {timeline("completion tokens", 5, recorder, [&](const Slice& s) {
                     return static_cast<double>(s.completion_tokens) * per_s;
                   })});
  out += line_plot("First token over time", {"s"}, latency,
                   {timeline("greatest", 1, recorder, [](const Slice& s) { return s.ttft_max_ms; }),
                    timeline("mean", 0, recorder,
                             [](const Slice& s) { return s.ok > 0 ? s.ttft_sum_ms / s.ok : 0; })});
  return out + "</div>\n";
}

class Tables {
 public:
  explicit Tables(const Report& report) : report_(report) {}

  void add(const std::string& name, const Figures& figures) {
    const double seconds = window_s(report_);
    const auto per_s = [&](std::uint64_t count) {
      return seconds > 0 ? fmt::format("{:.1f}", static_cast<double>(count) / seconds) : "–";
    };
    counts_ += fmt::format("<tr><td>{}</td>", escaped(name));
    for (const std::uint64_t count : {figures.planned, figures.ok, figures.refused, figures.errors,
                                      figures.dropped, figures.degraded}) {
      counts_ += fmt::format("<td>{}</td>", count);
    }
    counts_ += fmt::format("<td>{}</td><td>{}</td>", per_s(figures.window_ok),
                           per_s(figures.window_completion_tokens));
    if (report_.options.objective)
      counts_ += fmt::format("<td>{}</td>", per_s(figures.window_good));
    counts_ += "</tr>\n";
    add_latency(name, "first token", figures.ttft_ns);
    if (report_.options.stream) add_latency(name, "between tokens", figures.itl_ns);
    add_latency(name, "answer", figures.e2e_ns);
    if (figures.refused > 0) add_latency(name, "refusal", figures.refusal_ns);
  }

  [[nodiscard]] std::string html() const {
    return fmt::format(
        "<h2>Counts</h2><div class=\"scroll\"><table><tr><th></th><th>planned</th><th>ok</th>"
        "<th>refused</th><th>errors</th><th>dropped</th><th>degraded</th><th>requests/s</th>"
        "<th>tokens/s</th>{}</tr>\n{}</table></div>\n<h2>Latencies, ms</h2><div class=\"scroll\">"
        "<table><tr><th></th><th></th><th>count</th><th>p50</th><th>p90</th><th>p99</th>"
        "<th>p99.9</th><th>max</th></tr>\n{}</table></div>\n",
        report_.options.objective ? "<th>goodput/s</th>" : "", counts_, latencies_);
  }

 private:
  void add_latency(const std::string& name, std::string_view what, const HdrHistogram& histogram) {
    latencies_ += fmt::format("<tr><td>{}</td><td>{}</td><td>{}</td>", escaped(name), what,
                              histogram.count());
    for (const double q : {0.5, 0.9, 0.99, 0.999}) {
      latencies_ += fmt::format("<td>{}</td>", ms_text(histogram.quantile(q)));
    }
    latencies_ += fmt::format("<td>{}</td></tr>\n", ms_text(histogram.max()));
  }

  const Report& report_;
  std::string counts_;
  std::string latencies_;
};

std::string tables(const Report& report) {
  const Options& options = report.options;
  const Recorder& recorder = *report.recorder;
  Tables tables(report);
  tables.add("all", recorder.all());
  for (std::size_t i = 0; options.classes.size() > 1 && i < options.classes.size(); ++i) {
    tables.add("class " + options.classes[i].name, recorder.classes()[i]);
  }
  for (std::size_t i = 0; options.tenants.size() > 1 && i < options.tenants.size(); ++i) {
    tables.add("tenant " + options.tenants[i].name, recorder.tenants()[i]);
  }
  std::string out = tables.html();
  const Figures& all = recorder.all();
  if (all.refusals.empty() && all.errors_by_kind.empty()) return out;
  out +=
      "<h2>Refusals and errors</h2><div class=\"scroll\"><table><tr><th></th><th>count</th>"
      "<th>p99, ms</th></tr>\n";
  for (const auto& [reason, refusal] : all.refusals) {
    out += fmt::format("<tr><td>refused {}</td><td>{}</td><td>{}</td></tr>\n", escaped(reason),
                       refusal.count, ms_text(refusal.latency_ns.quantile(0.99)));
  }
  for (const auto& [kind, count] : all.errors_by_kind) {
    const auto said = recorder.messages().find(kind);
    out +=
        fmt::format("<tr><td>error {}{}</td><td>{}</td><td></td></tr>\n", escaped(kind),
                    said == recorder.messages().end() ? "" : "<br>" + escaped(said->second), count);
  }
  return out + "</table></div>\n";
}

std::string tile(std::string_view value, std::string_view what) {
  return fmt::format("<div class=\"tile\"><b>{}</b><span>{}</span></div>", value, what);
}

std::string tiles(const Report& report) {
  const Figures& all = report.recorder->all();
  const double seconds = window_s(report);
  const auto per_s = [&](std::uint64_t count) {
    return seconds > 0 ? fmt::format("{:.1f}", static_cast<double>(count) / seconds) : "–";
  };
  std::string out = "<div class=\"tiles\">";
  out += tile(per_s(all.window_ok), "answers/s");
  if (report.options.objective) out += tile(per_s(all.window_good), "goodput/s");
  out += tile(per_s(all.window_completion_tokens), "tokens/s");
  out += tile(ms_text(all.ttft_ns.quantile(0.99)), "first token p99, ms");
  if (report.options.stream)
    out += tile(ms_text(all.itl_ns.quantile(0.99)), "between tokens p99, ms");
  out += tile(ms_text(all.e2e_ns.quantile(0.99)), "answer p99, ms");
  out += tile(fmt::format("{}", all.refused), "refused");
  out += tile(fmt::format("{}", all.errors), "errors");
  if (report.options.tenants.size() > 1) {
    out += tile(fmt::format("{:.3f}", jain_index(tokens_by_tenant(report))), "Jain index");
  }
  return out + "</div>\n";
}

}  // namespace

std::string to_html(const Report& report) {
  const std::time_t started = static_cast<std::time_t>(report.facts.started_unix_s);
  const std::string title =
      fmt::format("{} to {}", load_name(report.options), report.options.target.authority);
  const Recorder& recorder = *report.recorder;
  std::string out = fmt::format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width,initial-scale=1\"><title>{0}</title><style>{1}</style></head>"
      "<body>\n<h1>{0}</h1>\n<p>{2:%Y-%m-%d %H:%M:%S} UTC, {3:.1f} s, seed {4}, weir {5}</p>\n",
      escaped(title), style(), fmt::gmtime(started),
      std::chrono::duration<double>(report.facts.elapsed).count(), report.options.seed,
      escaped(build_id()));
  if (report.facts.interrupted) out += "<p class=\"warn\">Interrupted: not all was sent.</p>\n";
  if (recorder.all().dropped > 0) {
    out += fmt::format(
        "<p class=\"warn\">{} requests were dropped by the generator: {} were "
        "unanswered.</p>\n",
        recorder.all().dropped, report.options.max_inflight);
  }
  out += tiles(report) + plots(report) + tables(report);
  out += fmt::format(
      "<p>Latencies count from the time a request was due. The generator was late by {} ms at p99, "
      "{} ms at most, and used {:.2f} s of CPU.</p>\n</body></html>\n",
      ms_text(recorder.lateness_ns().quantile(0.99)), ms_text(recorder.lateness_ns().max()),
      report.facts.cpu_s);
  return out;
}

}  // namespace weir::replay
