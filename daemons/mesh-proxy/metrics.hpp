// Prometheus' text format, written family by family.
#pragma once

#include <fmt/format.h>

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

namespace mesh::proxy_daemon {

class MetricsText {
  public:
    enum class Type : std::uint8_t { kGauge, kCounter };
    using Labels = std::initializer_list<std::pair<std::string_view, std::string_view>>;

    /// Begins a family; its samples follow. Names of counters end in _total.
    void family(Type type, std::string_view name, std::string_view help) {
        name_ = name;
        text_ += fmt::format("# HELP {0} {1}\n# TYPE {0} {2}\n", name, help,
                             type == Type::kGauge ? "gauge" : "counter");
    }
    template <class Number>
    void sample(Number value, Labels labels = {}) {
        text_ += name_;
        char separator = '{';
        for (const auto& [name, label] : labels) {
            text_ += fmt::format("{}{}=\"{}\"", separator, name, escaped(label));
            separator = ',';
        }
        text_ += fmt::format("{} {}\n", labels.size() == 0 ? "" : "}", value);
    }
    template <class Number>
    void gauge(std::string_view name, std::string_view help, Number value) {
        family(Type::kGauge, name, help);
        sample(value);
    }
    template <class Number>
    void counter(std::string_view name, std::string_view help, Number value) {
        family(Type::kCounter, name, help);
        sample(value);
    }
    [[nodiscard]] std::string take() { return std::move(text_); }

  private:
    static std::string escaped(std::string_view label) {
        std::string out;
        for (const char c : label) {
            if (c == '\n') {
                out += "\\n";
                continue;
            }
            if (c == '"' || c == '\\') out += '\\';
            out += c;
        }
        return out;
    }

    std::string name_, text_;
};

}  // namespace mesh::proxy_daemon
