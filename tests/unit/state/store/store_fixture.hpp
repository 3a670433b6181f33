// Short ways to use a store in tests.
#pragma once

#include <gtest/gtest.h>

#include <fmt/format.h>
#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/clock.hpp"
#include "state/store/store.hpp"

namespace mesh::store::testing {

using std::chrono::seconds;

inline std::unique_ptr<Store> memory_store(StoreOptions options = {}) {
    options.identity = {.cluster_id = 7, .member_id = 8};
    auto store = Store::open(std::make_unique<MemoryBackend>(), options, TimePoint{});
    EXPECT_TRUE(store.has_value());
    return *std::move(store);
}

/// Puts and returns the revision it got.
inline Revision put(Store& store, std::string_view key, std::string_view value,
                    LeaseId lease = LeaseId{}) {
    auto done = store.put({.key = key, .value = value, .lease = lease});
    EXPECT_TRUE(done.has_value()) << key;
    return done ? done->revision : 0;
}

inline Revision del(Store& store, std::string_view key, std::string_view end = {}) {
    auto done = store.delete_range({.range = {key, end}});
    EXPECT_TRUE(done.has_value()) << key;
    return done ? done->revision : 0;
}

inline RangeRequest prefix_request(std::string_view prefix, const std::string& end,
                                   Revision revision = 0) {
    RangeRequest request;
    request.range = {prefix, end};
    request.revision = revision;
    return request;
}

/// "key=value@mod" of everything in the range.
inline std::string dump(const std::vector<KeyValue>& kvs) {
    std::string text;
    for (const KeyValue& kv : kvs)
        text += fmt::format("{}{}={}@{}", text.empty() ? "" : " ", kv.key(), kv.value(),
                            kv.mod_revision());
    return text;
}

inline const std::string kFromZero(1, '\0');

inline std::string dump_all(const Store& store, Revision revision = 0) {
    auto answer = store.range(prefix_request(kFromZero, kFromZero, revision));
    return answer ? dump(answer->kvs) : std::string(to_string(answer.error().fault()));
}

inline std::string describe(const Event& event) {
    const KeyValue& kv = event.kv;
    std::string text = kv.tombstone()
                           ? fmt::format("-{}@{}", kv.key(), kv.mod_revision())
                           : fmt::format("+{}={}@{}", kv.key(), kv.value(), kv.mod_revision());
    if (event.prev) text += fmt::format("<{}@{}", event.prev.value(), event.prev.mod_revision());
    return text;
}

/// Keeps what it is told, and can be full.
class RecordingSink final : public WatchSink {
  public:
    bool on_events(WatchId, const Delivery& delivery) override {
        if (room == 0) return false;
        if (room > 0) --room;
        batches.push_back(delivery.batch);
        std::string text;
        const auto add = [&](const Event& event) {
            text += (text.empty() ? "" : " ") + describe(event);
            last_mod.push_back(event.kv.mod_revision());
        };
        if (delivery.selection)
            for (const std::uint32_t i : *delivery.selection) add(delivery.batch->events[i]);
        else
            for (const Event& event : delivery.batch->events) add(event);
        texts.push_back(text);
        return true;
    }
    void on_progress(WatchId, Revision revision) override { progress.push_back(revision); }
    void on_cancelled(WatchId, CancelReason reason, Revision floor) override {
        cancelled = true;
        cancel_reason = reason;
        cancel_floor = floor;
    }
    /// All deliveries so far, "; " between them; forgets them.
    std::string take() {
        std::string text;
        for (const std::string& t : std::exchange(texts, {}))
            text += (text.empty() ? "" : "; ") + t;
        return text;
    }

    int room = -1;  // deliveries it still takes; -1 = any number
    std::vector<std::string> texts;
    std::vector<std::shared_ptr<const EventBatch>> batches;
    std::vector<Revision> last_mod;
    std::vector<Revision> progress;
    bool cancelled = false;
    CancelReason cancel_reason{};
    Revision cancel_floor = 0;
};

}  // namespace mesh::store::testing
