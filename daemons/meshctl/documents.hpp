// The JSON documents of commands that change something. Those of status and service are the agents'
// own, see agents.hpp.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pki/certificates.hpp"
#include "sandbox/sandbox.hpp"

namespace mesh::ctl {

/// A sandbox as `sandbox list` and `sandbox create` tell it; only its name and complete: false when
/// its state is not known.
[[nodiscard]] boost::json::object sandbox_document(const sandbox::Summary& summary);

/// @param deleted false: there was no such sandbox, which was no failure
[[nodiscard]] boost::json::object deleted_document(std::string_view name, bool deleted);

/// What became of each object, in the order of the changes.
[[nodiscard]] boost::json::array changes_document(const std::vector<sandbox::Change>& changes);

/// @param daemon "" = all
/// @param count  how many were killed, or started
[[nodiscard]] boost::json::object daemons_document(std::string_view daemon, std::size_t count);

/// @param directions who follows, and whom
/// @param connected  whether they do now
[[nodiscard]] boost::json::array connections_document(
    const std::vector<std::pair<std::string, std::string>>& directions, bool connected);

/// @param folder where ca.crt and ca.key are
[[nodiscard]] boost::json::object authority_document(std::string_view folder,
                                                     const pki::CertificateInfo& certificate);

}  // namespace mesh::ctl
