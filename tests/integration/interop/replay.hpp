// Replays one recorded case: a real etcd, our Clusters with its directory in front of a relay, and
// the operations of each phase. Says where we differ.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cases.hpp"
#include "model/validate.hpp"

namespace mesh::interop {

/// How a case's recording is changed before it is compared, and why.
struct Edit {
    std::string why = {};
    /// Of the recorded events, those that are expected. Empty = all.
    std::function<bool(std::size_t phase, const Event& event)> keep = {};
    /// Events that are expected besides.
    std::vector<std::pair<std::size_t, Event>> also = {};
    /// Keys refused that the recording does not have; true = more refusals are fine.
    bool more_refused = false;
    /// The recorded numbers of entries are not compared.
    bool other_counts = false;
    /// It never gets ready: the cluster-config is refused.
    bool config_refused = false;
    /// The services' zones are expected as they were put.
    bool zones = false;
};

/// @param endpoint of an etcd that the case has for itself
/// @return what differs, a line each; empty = nothing
std::vector<std::string> replay(const json::object& recorded, model::Generation generation,
                                const Edit& edit, const std::string& endpoint);

}  // namespace mesh::interop
