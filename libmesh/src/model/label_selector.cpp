#include "model/label_selector.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "model/utf8.hpp"

namespace mesh::model {
namespace {

constexpr std::string_view kSpaces = " \t\r\n";
/// What ends a word, besides spaces.
constexpr std::string_view kMarks = "=!(),<>";

std::optional<std::int64_t> integer(std::string_view text) {
    std::int64_t number = 0;
    const char* const end = text.data() + text.size();
    const auto [stop, failure] = std::from_chars(text.data(), end, number);
    return failure == std::errc{} && stop == end ? std::optional(number) : std::nullopt;
}

}  // namespace

class LabelSelector::Parser {
  public:
    explicit Parser(std::string_view text) : text_(text), rest_(text) {}

    [[nodiscard]] Result<LabelSelector> selector() {
        LabelSelector selector;
        if (token().empty()) return selector;
        for (;;) {
            MESH_TRY(Requirement one, requirement());
            selector.requirements_.push_back(std::move(one));
            if (token().empty()) return selector;
            if (!take(",")) return expected("',' or the end");
        }
    }

  private:
    /// The token at hand: a mark, or a word; empty at the end.
    [[nodiscard]] std::string_view token() {
        rest_.remove_prefix(std::min(rest_.find_first_not_of(kSpaces), rest_.size()));
        for (const std::string_view mark : {"==", "!="}) {
            if (rest_.starts_with(mark)) return rest_.substr(0, mark.size());
        }
        if (rest_.empty() || kMarks.find(rest_.front()) != std::string_view::npos) {
            return rest_.substr(0, 1);
        }
        const auto end = std::min(rest_.find_first_of(kSpaces), rest_.find_first_of(kMarks));
        return rest_.substr(0, end);
    }
    bool take(std::string_view wanted) {
        if (token() != wanted) return false;
        rest_.remove_prefix(wanted.size());
        return true;
    }
    /// A key or a value; empty if a mark or the end is at hand.
    [[nodiscard]] std::string word() {
        const std::string_view word = token();
        if (word.empty() || kMarks.find(word.front()) != std::string_view::npos) return {};
        rest_.remove_prefix(word.size());
        return std::string(word);
    }
    [[nodiscard]] Error expected(std::string_view what) const {
        return invalid_argument(fmt::format("\"{}\": expected {} at byte {}", printable(text_, 256),
                                            what, text_.size() - rest_.size()));
    }

    [[nodiscard]] Result<Requirement> requirement() {
        Requirement one;
        if (take("!")) one.op = Operator::kAbsent;
        one.key = word();
        if (one.key.empty()) return expected("a label's name");
        if (one.op == Operator::kAbsent || token().empty() || token() == ",") return one;
        if (take("=") || take("==")) {
            one.op = Operator::kIn;
            one.values = {word()};
        } else if (take("!=")) {
            one.op = Operator::kNotIn;
            one.values = {word()};
        } else if (take("in")) {
            one.op = Operator::kIn;
            MESH_CHECK(list(one.values));
        } else if (take("notin")) {
            one.op = Operator::kNotIn;
            MESH_CHECK(list(one.values));
        } else if (token() == ">" || token() == "<") {
            one.op = take(">") ? Operator::kGreater : Operator::kLess;
            if (one.op == Operator::kLess) take("<");
            const auto number = integer(token());
            if (!number) return expected("an integer");
            one.number = *number;
            static_cast<void>(word());
        } else {
            return expected("one of =, ==, !=, in, notin, <, >");
        }
        return one;
    }
    [[nodiscard]] Result<void> list(std::vector<std::string>& values) {
        if (!take("(")) return expected("'('");
        do {
            values.push_back(word());  // an empty value is one, too
        } while (take(","));
        if (!take(")")) return expected("',' or ')'");
        return {};
    }

    std::string_view text_;
    std::string_view rest_;
};

Result<LabelSelector> LabelSelector::parse(std::string_view text) {
    return Parser(text).selector();
}

bool LabelSelector::holds(const Requirement& requirement, const StringMap& labels) {
    const auto value = labels.get(requirement.key);
    const auto listed = [&] {
        return std::ranges::any_of(requirement.values,
                                   [&](const std::string& one) { return *value == one; });
    };
    switch (requirement.op) {
        case Operator::kExists:
            return value.has_value();
        case Operator::kAbsent:
            return !value;
        case Operator::kIn:
            return value && listed();
        case Operator::kNotIn:
            return !value || !listed();
        case Operator::kGreater:
        case Operator::kLess: {
            const auto number = value ? integer(*value) : std::nullopt;
            if (!number) return false;
            return requirement.op == Operator::kGreater ? *number > requirement.number
                                                        : *number < requirement.number;
        }
    }
    return false;
}

bool LabelSelector::matches(const StringMap& labels) const {
    return std::ranges::all_of(requirements_,
                               [&](const Requirement& one) { return holds(one, labels); });
}

}  // namespace mesh::model
