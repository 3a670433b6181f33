#include "sources/etcd/history_guard.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace mesh::etcd::detail {

void HistoryGuard::reached(std::uint64_t cluster_id, std::int64_t revision) {
    if (cluster_id != reached_.cluster_id) {
        reached_ = {};
        reached_.cluster_id = cluster_id;
    }
    reached_.revision = std::max(reached_.revision, revision);
}

bool HistoryGuard::admits(const Header& first, TimePoint now) {
    refused_ = false;
    why_.clear();
    const bool behind = first.cluster_id != 0 && first.cluster_id == reached_.cluster_id &&
                        first.revision < reached_.revision;
    if (!behind) {
        behind_since_.reset();
        behind_.clear();
        return true;
    }
    if (!behind_since_) behind_since_ = now;
    const bool all = behind_.size() >= options_.endpoints;
    if (now - *behind_since_ >= (all ? options_.limit : options_.limit_absent)) {
        reached_ = {};
        behind_since_.reset();
        behind_.clear();
        return true;
    }
    refused_ = true;
    why_ = fmt::format("the server is behind: its revision is {}, {} was seen already",
                       first.revision, reached_.revision);
    return false;
}

void HistoryGuard::judged(const std::string& endpoint) {
    if (refused_) behind_.insert(endpoint);
}

}  // namespace mesh::etcd::detail
