// What the files of a directory define, key by key. Of several files that define one key the
// bytewise first counts; the others are mistakes that are told. Part of ManifestSet and PolicySet.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace mesh::sources::config {

/// @tparam Key ordered, with to_string()
/// @tparam Value with ==
/// @thread one thread
template <class Key, class Value>
class Definitions {
  public:
    using Ptr = std::shared_ptr<const Value>;
    using Values = std::map<Key, Ptr>;  ///< of one file

    /// A file defines `now` instead of `held`, which becomes it.
    /// @param on_change called as f(key, what counts now or nullptr) for each key where that is
    ///        another value than before
    /// @param errors gets what is doubly defined and was not before
    /// @complexity O(both maps × log n)
    template <class F>
    void replace(const std::string& file, Values& held, Values now, F&& on_change,
                 std::vector<std::string>& errors) {
        std::set<Key> touched;
        for (const auto& [key, value] : held) touched.insert(key);
        for (const auto& [key, value] : now) touched.insert(key);
        for (const Key& key : touched) {
            auto& files = files_[key];
            const Ptr before = files.empty() ? nullptr : files.begin()->second;
            if (const auto found = now.find(key); found != now.end()) {
                files.insert_or_assign(file, found->second);
            } else {
                files.erase(file);
            }
            const Ptr after = files.empty() ? nullptr : files.begin()->second;
            if (files.empty()) files_.erase(key);
            const bool same = before == after || (before && after && *before == *after);
            if (!same) on_change(key, after);
            note_duplicates(key, errors);
        }
        held = std::move(now);
    }

    /// Keys that some file defines.
    [[nodiscard]] std::size_t size() const noexcept { return files_.size(); }
    /// Number of keys by their `kind`.
    [[nodiscard]] auto counts() const {
        std::map<decltype(Key::kind), std::size_t> counts;
        for (const auto& [key, files] : files_) ++counts[key.kind];
        return counts;
    }
    /// What is doubly defined now, a sentence each.
    [[nodiscard]] std::vector<std::string> duplicates() const {
        std::vector<std::string> all;
        for (const auto& [key, texts] : duplicates_)
            all.insert(all.end(), texts.begin(), texts.end());
        return all;
    }

  private:
    void note_duplicates(const Key& key, std::vector<std::string>& errors) {
        std::set<std::string> now;
        if (const auto found = files_.find(key); found != files_.end()) {
            const auto& files = found->second;
            for (auto other = std::next(files.begin()); other != files.end(); ++other) {
                now.insert(fmt::format("{}: {} is defined in {} already, which is used",
                                       other->first, key.to_string(), files.begin()->first));
            }
        }
        std::set<std::string>& before = duplicates_[key];
        std::ranges::set_difference(now, before, std::back_inserter(errors));
        before = std::move(now);
        if (before.empty()) duplicates_.erase(key);
    }

    std::map<Key, std::map<std::string, Ptr>> files_;  ///< by key those that define it
    std::map<Key, std::set<std::string>> duplicates_;  ///< sentences
};

}  // namespace mesh::sources::config
