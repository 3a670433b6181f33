// The network policies of several files as one set. Each document counts for itself: a bad one
// keeps the last good version of its policy and takes nothing from the others of its file. Part of
// ManifestDirectory.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "model/policy_record.hpp"

namespace mesh::sources::config {

struct PolicySetUpdate {
    std::vector<model::PolicyRecordChange> changes;  ///< each policy at most once
    std::vector<std::string> errors;                 ///< that were not there before
};

/// A policy that several files define is that of the bytewise first file name, and an error.
/// @thread one thread
class PolicySet {
  public:
    /// A file's new text.
    [[nodiscard]] PolicySetUpdate apply(std::string_view file, std::string_view text);
    /// The file is gone, and its policies with it.
    [[nodiscard]] PolicySetUpdate remove(std::string_view file);
    /// The file cannot be read: its policies stay as they were. @param why names the file
    [[nodiscard]] PolicySetUpdate fail(std::string_view file, std::string why);

    [[nodiscard]] std::size_t size() const noexcept { return candidates_.size(); }
    /// Number of policies by kind.
    [[nodiscard]] std::map<model::policy::PolicyKind, std::size_t> counts() const;
    /// All that is wrong now, by file.
    [[nodiscard]] std::vector<std::string> errors() const;
    [[nodiscard]] model::UnreadPolicies unread() const;

  private:
    using RecordPtr = std::shared_ptr<const model::PolicyRecord>;
    using Records = std::map<model::policy::PolicyKey, RecordPtr>;
    struct File {
        Records records;
        std::vector<std::string> errors;
        model::UnreadPolicies unread;
    };
    void replace(const std::string& name, File& file, Records records, PolicySetUpdate& update);
    void note_duplicates(const model::policy::PolicyKey& key, PolicySetUpdate& update);

    std::map<std::string, File, std::less<>> files_;
    /// Per policy the files that define it.
    std::map<model::policy::PolicyKey, std::map<std::string, RecordPtr>> candidates_;
    std::map<model::policy::PolicyKey, std::set<std::string>> duplicates_;  ///< error texts
};

}  // namespace mesh::sources::config
