// Files of network policies, and what is wrong with them.
#pragma once

#include <boost/json/object.hpp>
#include <memory>
#include <mesh/error.hpp>
#include <set>
#include <string>
#include <vector>

#include "model/policy.hpp"
#include "model/policy_record.hpp"

namespace mesh::ctl {

struct InputFile {
    std::string name, text;
};

/// Reads files, "-" for standard input, and of folders *.yaml, *.yml and *.json by name.
/// @errors kNotFound, kInvalidArgument, kUnavailable name the path
[[nodiscard]] Result<std::vector<InputFile>> read_inputs(const std::vector<std::string>& paths);

/// Network policies of some files, as this version of libmesh enforces them.
struct PolicyFiles {
    std::vector<model::policy::PolicyPtr> policies;  ///< that are good
    /// The same, ready for a cluster's etcd.
    std::vector<std::shared_ptr<const model::PolicyRecord>> records;
    std::vector<std::string> errors;  ///< one for each bad document, and for names that come twice
    std::set<std::string> skipped;    ///< "<apiVersion> <kind>" of other documents
};
[[nodiscard]] PolicyFiles parse_policy_files(const std::vector<InputFile>& files);
/// The same, or an error that tells all that is wrong. @errors kInvalidArgument
[[nodiscard]] Result<PolicyFiles> good_policy_files(const std::vector<std::string>& paths);

/// All that is wrong, one line each.
[[nodiscard]] std::string all_errors(const PolicyFiles& files);

/// {"valid", "policies", "errors", "skipped"}.
[[nodiscard]] boost::json::object validation_document(const PolicyFiles& files);

}  // namespace mesh::ctl
