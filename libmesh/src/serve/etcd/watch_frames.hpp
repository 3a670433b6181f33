// Frames of watch events, made once and shared: what is the same for several watchers of a delivery
// is kept with the store's batch. Internal to serve/etcd.
#pragma once

#include <memory>
#include <vector>

#include "rpc/frame.hpp"
#include "serve/etcd/etcd_service.hpp"
#include "serve/etcd/wire_encode.hpp"
#include "state/store/watch.hpp"

namespace mesh::serve {

struct WatchFrameKey {
    std::int64_t watch_id = 0;
    bool prev_kv = false;
    bool fragment = false;  ///< the client takes parts of a revision
    friend bool operator==(const WatchFrameKey&, const WatchFrameKey&) = default;
};

using WatchFrames = std::shared_ptr<const std::vector<rpc::Frame>>;

/// The frames that carry delivery to the watches of key; one, unless it is larger than max_bytes.
/// @param header the revision in it is replaced
[[nodiscard]] WatchFrames watch_frames(const store::Delivery& delivery, const WatchFrameKey& key,
                                       WireHeader header, std::size_t max_bytes,
                                       EtcdServiceStats& stats);

}  // namespace mesh::serve
