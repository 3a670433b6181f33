// The network policies of several files as one set. Each document counts for itself: a bad one
// keeps the last good version of its policy and takes nothing from the others of its file. Part of
// ManifestDirectory.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "model/policy_record.hpp"
#include "sources/config/definitions.hpp"

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

    [[nodiscard]] std::size_t size() const noexcept { return definitions_.size(); }
    /// Number of policies by kind.
    [[nodiscard]] std::map<model::policy::PolicyKind, std::size_t> counts() const;
    /// All that is wrong now, by file.
    [[nodiscard]] std::vector<std::string> errors() const;
    [[nodiscard]] model::UnreadPolicies unread() const;

  private:
    using PolicyDefinitions = Definitions<model::policy::PolicyKey, model::PolicyRecord>;
    using Records = PolicyDefinitions::Values;
    struct File {
        Records records;
        std::vector<std::string> errors;
        model::UnreadPolicies unread;
    };
    void replace(const std::string& name, File& file, Records records, PolicySetUpdate& update);

    std::map<std::string, File, std::less<>> files_;
    PolicyDefinitions definitions_;
};

}  // namespace mesh::sources::config
