// Answers of etcd that can be large, read without copying: Range and Watch give views into the
// received bytes, where the generated classes would allocate two strings per key. Internal to
// sources/etcd/; the field numbers are those of model/etcdpb/etcd.proto.
#pragma once

#include <mesh/error.hpp>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include "sources/etcd/client.hpp"
#include "sources/etcd/types.hpp"

namespace mesh::etcd::detail {

struct RangeView {
    bool has_header = false;
    Header header;
    std::vector<KeyValueView> kvs;
    bool more = false;
    std::int64_t count = 0;
};

struct WatchView {
    bool has_header = false;
    Header header;
    std::int64_t watch_id = 0;
    bool created = false;
    bool canceled = false;
    bool fragment = false;
    std::int64_t compact_revision = 0;
    std::string_view cancel_reason;
    std::vector<WatchEvent> events;
};

/// More events in one answer are refused: an event of a few bytes takes a hundred here. A lease of
/// as many keys ends in one revision, so that it is no small number.
inline constexpr std::size_t kMostEvents = 1'000'000;

/// @param max_kvs as many as were asked for: more take memory that nobody agreed to
/// @errors kCorrupt when the bytes are no such message, or have too many entries @thread any thread
[[nodiscard]] Result<void> parse_range(
    std::string_view bytes, RangeView& out,
    std::size_t max_kvs = std::numeric_limits<std::size_t>::max());
[[nodiscard]] Result<void> parse_watch(std::string_view bytes, WatchView& out,
                                       std::size_t max_events = kMostEvents);

}  // namespace mesh::etcd::detail
