#include "sources/config/field.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace mesh::sources::config {

using Kind = DocumentValue::Kind;

Field::Field(const Field& parent, const DocumentValue* value, std::string_view name,
             std::size_t index)
    : value_(value != nullptr && value->kind != Kind::kNull ? value : nullptr),
      parent_(&parent),
      name_(name),
      index_(index),
      line_(value != nullptr ? value->line : parent.line_),
      mistake_(parent.mistake_) {}

Field Field::operator[](std::string_view name) const {
    return Field(*this, is(Kind::kMap) ? value_->find(name) : nullptr, name, kNoIndex);
}

bool Field::is(Kind kind) const {
    if (value_ == nullptr) return false;
    if (value_->kind == kind) return true;
    expected(describe(kind));
    return false;
}

std::string Field::string(std::string_view fallback) const {
    if (value_ == nullptr) return std::string(fallback);
    if (value_->kind == Kind::kBool || value_->kind == Kind::kNumber) {
        expected("a string in quotes");
        return std::string(fallback);
    }
    return is(Kind::kString) ? value_->text : std::string(fallback);
}

std::string Field::required_string() const {
    std::string text = string();
    if (text.empty()) expected("a string that is not empty");
    return text;
}

std::string Field::choice(std::initializer_list<std::string_view> allowed,
                          std::string_view fallback) const {
    std::string text = string(fallback);
    if (std::ranges::find(allowed, text) != allowed.end() || text == fallback) return text;
    expected(fmt::format("one of {}", fmt::join(allowed, ", ")));
    return std::string(fallback);
}

bool Field::boolean(bool fallback) const {
    return is(Kind::kBool) ? value_->text == "true" : fallback;
}

std::int64_t Field::integer(std::int64_t low, std::int64_t high,
                            std::optional<std::int64_t> fallback) const {
    if (value_ == nullptr && fallback) return *fallback;
    std::int64_t number = 0;
    bool good = value_ != nullptr && value_->kind == Kind::kNumber;
    if (good) {
        const std::string& text = value_->text;
        const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), number);
        good = ec == std::errc{} && end == text.data() + text.size() && number >= low &&
               number <= high;
    }
    if (!good) expected(fmt::format("an integer {}..{}", low, high));
    return good ? number : fallback.value_or(low);
}

void Field::only(std::initializer_list<std::string_view> names) const {
    each_member([&](const std::string& name, const Field& member) {
        if (std::ranges::find(names, name) != names.end()) return;
        member.expected(fmt::format("no such field, but one of {}", fmt::join(names, ", ")));
    });
}

void Field::expected(std::string_view what) const {
    if (mistake_) return;
    std::string got;
    if (value_ == nullptr) {
        got = "nothing";
    } else if (value_->kind == Kind::kList || value_->kind == Kind::kMap) {
        got = describe(value_->kind);
    } else {
        constexpr std::size_t kShown = 64;
        got = fmt::format("\"{}{}\"", std::string_view(value_->text).substr(0, kShown),
                          value_->text.size() > kShown ? "..." : "");
    }
    mistake_ = fmt::format("line {}: {}: expected {}, got {}", line_, path(), what, got);
}

std::string Field::path() const {
    if (parent_ == nullptr) return "document";
    if (index_ != kNoIndex) return fmt::format("{}[{}]", parent_->path(), index_);
    return parent_->parent_ == nullptr ? std::string(name_)
                                       : fmt::format("{}.{}", parent_->path(), name_);
}

}  // namespace mesh::sources::config
