// One list of all mirrored prefixes of an upstream etcd, at one revision, into an open snapshot of
// the mirror's store. Internal to serve/etcd.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "sources/etcd/client.hpp"
#include "state/store/store.hpp"

namespace mesh::serve {

struct MirrorListOptions {
    std::vector<std::string> prefixes;  ///< none a leading part of another; sorted
    /// Asked once, when the first answer is in: whether it is of the history that the store has.
    std::function<bool(const etcd::Header&)> same_history;
    /// Whether to end: a list that was cancelled may lack a page.
    std::function<bool()> stopped;
};

struct MirrorList {
    etcd::Header header;  ///< its revision is that of the list
    std::string newest_key;
    std::int64_t newest_revision = 0;  ///< of newest_key; 0 = there is no key
};

/// A mirror's version of an upstream's key-value. @param sub_revision differs within a revision
[[nodiscard]] store::KeyValue to_record(const etcd::KeyValueView& kv, std::uint32_t sub_revision);

/// The snapshot is left to be committed, or aborted.
/// @param client, store outlive the call
/// @errors those of Client::async_list; kConflict: two etcds answered; kCancelled; what the store
/// does not take
[[nodiscard]] boost::asio::awaitable<Result<MirrorList>> list_upstream(etcd::Client& client,
                                                                       store::Store& store,
                                                                       MirrorListOptions options);

}  // namespace mesh::serve
