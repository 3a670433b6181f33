// A cursor on a document's tree that reads typed fields. The first mistake of a document is kept
// with its line and path ("line 14: spec.ports[0].port: expected ..."); after it every read gives
// its default, so that a reader needs one check at its end.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

#include "sources/config/document.hpp"

namespace mesh::sources::config {

/// One place in a document; absent and null places are the same. Made on the stack from its parent,
/// which must outlive it. @thread one thread
class Field {
  public:
    /// The document's root.
    Field(const DocumentValue& root, std::optional<std::string>& mistake)
        : value_(&root), line_(root.line), mistake_(mistake) {}

    /// The member of a map; reading it from anything else is a mistake.
    [[nodiscard]] Field operator[](std::string_view name) const;
    [[nodiscard]] bool present() const noexcept { return value_ != nullptr; }
    /// What stands here; kNull if nothing does.
    [[nodiscard]] DocumentValue::Kind kind() const noexcept {
        return value_ != nullptr ? value_->kind : DocumentValue::Kind::kNull;
    }
    /// As parsed; nullptr if nothing stands here.
    [[nodiscard]] const DocumentValue* value() const noexcept { return value_; }
    /// In the file, from 1; of an absent place its parent's.
    [[nodiscard]] std::uint32_t line() const noexcept { return line_; }
    /// Number of elements or members.
    [[nodiscard]] std::size_t size() const noexcept {
        return value_ != nullptr ? value_->items.size() + value_->fields.size() : 0;
    }
    /// A member of a map that is not named here is a mistake, null ones included.
    void only(std::initializer_list<std::string_view> names) const;

    /// A string. @param fallback where absent
    [[nodiscard]] std::string string(std::string_view fallback = {}) const;
    [[nodiscard]] std::string required_string() const;
    /// A string that is one of `allowed`.
    [[nodiscard]] std::string choice(std::initializer_list<std::string_view> allowed,
                                     std::string_view fallback) const;
    [[nodiscard]] bool boolean(bool fallback) const;
    /// An integer in decimal digits. @param fallback where absent; nullopt = it must be there
    [[nodiscard]] std::int64_t integer(std::int64_t low, std::int64_t high,
                                       std::optional<std::int64_t> fallback) const;
    /// Calls f(const Field&) for each element of a list.
    template <class F>
    void each(F&& f) const {
        if (!is(DocumentValue::Kind::kList)) return;
        std::size_t index = 0;
        for (const DocumentValue& item : value_->items) f(Field(*this, &item, {}, index++));
    }
    /// Calls f(name, const Field&) for each member of a map.
    template <class F>
    void each_member(F&& f) const {
        if (!is(DocumentValue::Kind::kMap)) return;
        for (const auto& [name, value] : value_->fields) {
            f(name, Field(*this, &value, name, kNoIndex));
        }
    }
    /// Notes "<line>: <path>: expected <what>, got <value>", if it is the document's first mistake.
    void expected(std::string_view what) const;

  private:
    static constexpr std::size_t kNoIndex = std::numeric_limits<std::size_t>::max();
    Field(const Field& parent, const DocumentValue* value, std::string_view name,
          std::size_t index);
    [[nodiscard]] bool is(DocumentValue::Kind kind) const;
    [[nodiscard]] std::string path() const;

    const DocumentValue* value_;
    const Field* parent_ = nullptr;
    std::string_view name_;
    std::size_t index_ = kNoIndex;
    std::uint32_t line_;
    std::optional<std::string>& mistake_;
};

}  // namespace mesh::sources::config
