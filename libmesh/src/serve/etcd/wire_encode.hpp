// Answers that carry key-values, written straight from the store's records to a frame: a range of
// 30 MB is copied once, not three times. What is rare goes through the Protobuf classes instead.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "rpc/frame.hpp"
#include "state/store/ops.hpp"
#include "state/store/watch.hpp"

namespace mesh::serve {

/// The fields of etcd's ResponseHeader.
struct WireHeader {
    std::uint64_t cluster_id = 0;
    std::uint64_t member_id = 0;
    std::int64_t revision = 0;
    std::uint64_t raft_term = 0;
};

/// A framed RangeResponse; empty if it is longer than a message may be.
[[nodiscard]] rpc::Frame encode_range(const WireHeader& header, const store::RangeAnswer& answer);

/// All of a RangeResponse but its header; empty if that is longer than a message may be.
[[nodiscard]] std::string encode_range_body(const store::RangeAnswer& answer);
/// A framed RangeResponse with a body that frames for others share; empty if the body is.
[[nodiscard]] rpc::Frame share_range(const WireHeader& header,
                                     const std::shared_ptr<const std::string>& body);

/// Appends the event as an element of WatchResponse.events.
void append_event(std::string& out, const store::Event& event, bool with_prev);

/// A framed WatchResponse. @param events elements that append_event() wrote
[[nodiscard]] rpc::Frame encode_watch_events(const WireHeader& header, std::int64_t watch_id,
                                             std::string_view events, bool fragment);
/// The same with the events as a tail that frames for other watches share. @param owner of events
[[nodiscard]] rpc::Frame share_watch_events(const WireHeader& header, std::int64_t watch_id,
                                            const std::shared_ptr<const void>& owner,
                                            std::string_view events, bool fragment);

}  // namespace mesh::serve
