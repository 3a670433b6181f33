#include "serve/l7/http_policy.hpp"

#include <fmt/format.h>
#include <re2/re2.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "model/http_path.hpp"

namespace mesh::serve::l7 {

namespace policy = model::policy;

namespace {

/// An anchored expression. Most are plain texts or beginnings, which need no automaton.
class Pattern {
  public:
    static Result<Pattern> compile(const std::string& text, const HttpPolicyLimits& limits) {
        Pattern out;
        if (text.empty()) return out;
        if (text.size() > limits.max_pattern_bytes) {
            return Error(Errc::kCapacity, fmt::format("an expression of {} bytes: at most {}",
                                                      text.size(), limits.max_pattern_bytes));
        }
        constexpr std::string_view kSpecial = "\\.+*?()|[]{}^$";
        const auto special = text.find_first_of(kSpecial);
        if (special == std::string::npos) {
            out.kind_ = Kind::kExact;
            out.text_ = text;
            return out;
        }
        if (special + 2 == text.size() && text.ends_with(".*")) {
            out.kind_ = Kind::kPrefix;
            out.text_ = text.substr(0, special);
            return out;
        }
        if (text.find('|') == std::string::npos) {
            out.text_ = beginning(text, special);
        } else if (text.find_first_of("\\.+*?()[]{}^$") == std::string::npos) {
            out.kind_ = Kind::kOneOf;
            out.text_ = text;
            return out;
        }
        RE2::Options options;
        options.set_log_errors(false);
        options.set_never_capture(true);
        options.set_max_mem(limits.max_pattern_memory);
        out.regex_ = std::make_shared<const RE2>(text, options);
        if (!out.regex_->ok()) {
            return invalid_argument(fmt::format("\"{}\": expected a regular expression: {}", text,
                                                out.regex_->error()));
        }
        if (out.regex_->ProgramSize() > limits.max_program_size) {
            return Error(Errc::kCapacity,
                         fmt::format("\"{}\": an expression of size {}: at most {}", text,
                                     out.regex_->ProgramSize(), limits.max_program_size));
        }
        out.kind_ = Kind::kRegex;
        return out;
    }

    [[nodiscard]] bool matches(std::string_view text) const {
        switch (kind_) {
            case Kind::kAny:
                return true;
            case Kind::kExact:
                return text == text_;
            case Kind::kPrefix:
                return text.starts_with(text_);
            case Kind::kOneOf:
                return one_of(text);
            case Kind::kRegex:
                return text.starts_with(text_) &&
                       RE2::FullMatch(re2::StringPiece(text.data(), text.size()), *regex_);
        }
        return false;
    }

  private:
    /// What every match of an expression without alternatives begins with; may be less.
    static std::string beginning(const std::string& text, std::size_t special) {
        std::string out = text.substr(0, special);
        // The character before one of these may be absent; it may have several bytes.
        if (std::string_view("*?{").find(text[special]) == std::string_view::npos) return out;
        if (!out.empty()) out.pop_back();
        while (!out.empty() && static_cast<unsigned char>(out.back()) >= 0x80) out.pop_back();
        return out;
    }

    [[nodiscard]] bool one_of(std::string_view text) const {
        for (std::string_view rest = text_;;) {
            const auto bar = rest.find('|');
            if (rest.substr(0, bar) == text) return true;
            if (bar == std::string_view::npos) return false;
            rest.remove_prefix(bar + 1);
        }
    }

    enum class Kind : std::uint8_t { kAny, kExact, kPrefix, kOneOf, kRegex } kind_ = Kind::kAny;
    std::string text_;  // all of it, what it begins with, or "a|b"
    std::shared_ptr<const RE2> regex_;
};

struct HeaderRule {
    std::string name, value;  // value empty: that it is there
    policy::HeaderMismatch mismatch = policy::HeaderMismatch::kDrop;
};

/// Whether the header is there, and whether its values, joined as a list, are `value`.
struct HeaderState {
    bool present = false, equal = false;
};
HeaderState look_up(std::span<const Field> fields, const HeaderRule& rule) {
    HeaderState state;
    std::string_view rest = rule.value;
    bool equal = true;
    for (const Field& field : fields) {
        if (!iequals(field.name, rule.name)) continue;
        if (state.present) {
            equal = equal && rest.starts_with(',');
            if (equal) rest.remove_prefix(1);
        }
        state.present = true;
        equal = equal && rest.starts_with(field.value);
        if (equal) rest.remove_prefix(field.value.size());
    }
    state.equal = state.present && (rule.value.empty() || (equal && rest.empty()));
    return state;
}

bool says_where_it_ends(std::string_view name) {
    return iequals(name, "content-length") || iequals(name, "transfer-encoding") ||
           iequals(name, "connection") || iequals(name, "upgrade");
}

HeaderRule read_header(const std::string& text) {
    // "Name", "Name: value", or as Cilium's parser takes it, "Name value".
    const auto end = text.find_first_of(": ");
    HeaderRule rule{text.substr(0, end), {}, policy::HeaderMismatch::kDrop};
    if (end == std::string::npos) return rule;
    const auto value = text.find_first_not_of(text[end] == ':' ? ": " : " ", end);
    if (value != std::string::npos) rule.value = text.substr(value);
    while (rule.value.ends_with(' ')) rule.value.pop_back();
    return rule;
}

}  // namespace

struct HttpPolicy::Rule {
    Pattern method, path, host;
    std::vector<HeaderRule> headers;
    std::size_t source = 0;

    [[nodiscard]] bool headers_allow(std::span<const Field> fields) const {
        return std::ranges::all_of(headers, [&](const HeaderRule& header) {
            return header.mismatch != policy::HeaderMismatch::kDrop ||
                   look_up(fields, header).equal;
        });
    }

    void act(std::span<const Field> fields, Decision& out) const {
        using Kind = HeaderEdit::Kind;
        for (const HeaderRule& header : headers) {
            if (header.mismatch == policy::HeaderMismatch::kDrop) continue;
            const HeaderState state = look_up(fields, header);
            if (state.equal) continue;
            out.mismatched.push_back(header.name);
            const bool replace = header.mismatch == policy::HeaderMismatch::kReplace;
            if ((replace || header.mismatch == policy::HeaderMismatch::kDelete) && state.present)
                out.edits.push_back({Kind::kDelete, header.name, {}});
            if (replace || header.mismatch == policy::HeaderMismatch::kAdd)
                out.edits.push_back({Kind::kAdd, header.name, header.value});
        }
    }
};

HttpPolicy::HttpPolicy() = default;
HttpPolicy::~HttpPolicy() = default;

std::size_t HttpPolicy::size() const noexcept {
    return rules_.size();
}

Result<std::shared_ptr<const HttpPolicy>> HttpPolicy::compile(std::span<const Source> sources,
                                                              const HttpPolicyLimits& limits) {
    std::shared_ptr<HttpPolicy> out(new HttpPolicy());
    const auto add = [&](Rule rule) {
        rule.source = out->origins_.size() - 1;
        out->rules_.push_back(std::move(rule));
    };
    for (const Source& source : sources) {
        out->origins_.push_back(source.origin);
        if (source.rules == nullptr || source.rules->empty()) {
            add({});
            continue;
        }
        for (const policy::HttpRule& written : source.rules->http) {
            if (out->rules_.size() >= limits.max_rules) {
                return Error(Errc::kCapacity,
                             fmt::format("more than {} HTTP rules", limits.max_rules));
            }
            const auto pattern = [&](const std::string& text, std::string_view what) {
                auto made = Pattern::compile(text, limits);
                if (!made) {
                    return Result<Pattern>(
                        made.error().with_prefix(fmt::format("{}: {}", source.origin, what)));
                }
                return made;
            };
            Rule rule;
            MESH_TRY(rule.method, pattern(written.method, "method"));
            MESH_TRY(rule.path, pattern(written.path, "path"));
            MESH_TRY(rule.host, pattern(written.host, "host"));
            for (const std::string& header : written.headers)
                rule.headers.push_back(read_header(header));
            for (const policy::HeaderMatch& match : written.header_matches) {
                if (match.mismatch > policy::HeaderMismatch::kLog && says_where_it_ends(match.name))
                    return invalid_argument(fmt::format(
                        "{}: headerMatches: {}: expected a header that may be changed: this one "
                        "says how to read the message",
                        source.origin, match.name));
                rule.headers.push_back({match.name, match.value, match.mismatch});
            }
            add(std::move(rule));
        }
    }
    return std::shared_ptr<const HttpPolicy>(std::move(out));
}

void HttpPolicy::decide(const RequestView& request, Decision& decision) const {
    decision.clear();
    bool differs = false;
    if (!request.plain_path) {
        model::normalise_path(request.path, decision.normal_path);
        differs = decision.normal_path != request.path;
    }
    for (std::size_t i = 0; i < rules_.size(); ++i) {
        const Rule& rule = rules_[i];
        if (!rule.method.matches(request.method) || !rule.path.matches(request.path) ||
            (differs && !rule.path.matches(decision.normal_path)) ||
            !rule.host.matches(request.host) || !rule.headers_allow(request.fields)) {
            continue;
        }
        decision.allowed = true;
        decision.rule = static_cast<std::uint32_t>(i);
        decision.origin = origins_[rule.source];
        rule.act(request.fields, decision);
        return;
    }
}

}  // namespace mesh::serve::l7
