// The hand-written encoding must be what Protobuf's own classes read, field for field; and watch
// frames are cut where they may be, and shared.
#include "serve/etcd/wire_encode.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <limits>

#include "model/etcdpb/etcd.pb.h"
#include "serve/etcd/watch_frames.hpp"

namespace mesh::serve {
namespace {

using store::KeyValue;

std::string bytes_of(const rpc::Frame& frame) {
    std::string bytes;
    while (bytes.size() < frame.size()) bytes += frame.piece(bytes.size());
    return bytes;
}

template <class Message>
Message parse(const rpc::Frame& frame) {
    Message message;
    EXPECT_TRUE(message.ParseFromString(bytes_of(frame).substr(rpc::kFramePrefix)));
    return message;
}

KeyValue kv(std::string_view key, std::string_view value, store::Revision mod) {
    return KeyValue::make(
        key, value,
        {.create_revision = 2, .mod_revision = mod, .version = 3, .lease = store::LeaseId{-7}});
}

void expect_equal(const etcdpb::KeyValue& got, const KeyValue& expected) {
    EXPECT_EQ(got.key(), expected.key());
    EXPECT_EQ(got.value(), expected.value());
    EXPECT_EQ(got.create_revision(), expected.create_revision());
    EXPECT_EQ(got.mod_revision(), expected.mod_revision());
    EXPECT_EQ(got.version(), expected.version());
    EXPECT_EQ(got.lease(), number(expected.lease()));
}

const WireHeader kHeader{.cluster_id = std::numeric_limits<std::uint64_t>::max(),
                         .member_id = 1,
                         .revision = 300,
                         .raft_term = 2};

void expect_header(const etcdpb::ResponseHeader& header, store::Revision revision) {
    EXPECT_EQ(header.cluster_id(), kHeader.cluster_id);
    EXPECT_EQ(header.member_id(), kHeader.member_id);
    EXPECT_EQ(header.revision(), revision);
    EXPECT_EQ(header.raft_term(), kHeader.raft_term);
}

TEST(WireEncode, ARangeLongerThanAMessageMayBeIsNoFrame) {
    store::RangeAnswer answer;
    answer.kvs.resize(2200, kv("a", std::string(1'000'000, 'v'), 127));  // handles on one record
    EXPECT_FALSE(encode_range(kHeader, answer));
    answer.kvs.resize(2);
    EXPECT_TRUE(encode_range(kHeader, answer));
}

/// Says that it is as long as it is told to be.
struct Message {
    std::size_t length;
    bool* written;
    [[nodiscard]] std::size_t ByteSizeLong() const { return length; }
    void SerializeWithCachedSizesToArray(std::uint8_t*) const { *written = true; }
};

TEST(WireEncode, AMessageLongerThanProtobufTakesIsNoFrame) {
    bool written = false;
    EXPECT_FALSE(rpc::encode_frame(Message{rpc::kLongestMessage + 1, &written}));
    EXPECT_FALSE(rpc::encode_frame(Message{std::size_t{5} << 30, &written}));
    EXPECT_FALSE(written);
    EXPECT_TRUE(rpc::encode_frame(Message{0, &written}));
    EXPECT_TRUE(written);
}

TEST(WireEncode, Range) {
    store::RangeAnswer answer;
    answer.kvs = {kv("a", "1", 127), kv("b", "", 128),
                  kv(std::string(200, 'k'), std::string(70'000, 'v'), 1LL << 40)};
    answer.more = true;
    answer.count = 1'000'000;
    const auto message = parse<etcdpb::RangeResponse>(encode_range(kHeader, answer));
    expect_header(message.header(), 300);
    EXPECT_TRUE(message.more());
    EXPECT_EQ(message.count(), 1'000'000);
    ASSERT_EQ(message.kvs_size(), 3);
    for (int i = 0; i < 3; ++i)
        expect_equal(message.kvs(i), answer.kvs[static_cast<std::size_t>(i)]);
    const auto empty = parse<etcdpb::RangeResponse>(encode_range({}, {}));
    EXPECT_TRUE(empty.has_header());
    EXPECT_EQ(empty.kvs_size(), 0);
}

TEST(WireEncode, WatchEvents) {
    std::string events;
    append_event(events, {.kv = kv("a", "2", 9), .prev = kv("a", "1", 8)}, true);
    append_event(events, {.kv = kv("a", "2", 9), .prev = kv("a", "1", 8)}, false);
    append_event(events, {.kv = KeyValue::make_tombstone("a", 10), .prev = {}}, true);
    const auto message =
        parse<etcdpb::WatchResponse>(encode_watch_events(kHeader, 5, events, true));
    expect_header(message.header(), 300);
    EXPECT_EQ(message.watch_id(), 5);
    EXPECT_TRUE(message.fragment());
    ASSERT_EQ(message.events_size(), 3);
    EXPECT_EQ(message.events(0).type(), etcdpb::Event::PUT);
    expect_equal(message.events(0).kv(), kv("a", "2", 9));
    expect_equal(message.events(0).prev_kv(), kv("a", "1", 8));
    EXPECT_FALSE(message.events(1).has_prev_kv());
    EXPECT_EQ(message.events(2).type(), etcdpb::Event::DELETE);
    EXPECT_EQ(message.events(2).kv().mod_revision(), 10);
    EXPECT_FALSE(message.events(2).has_prev_kv());
}

store::Delivery delivery(std::vector<store::Event> events, store::Revision revision) {
    auto batch = std::make_shared<store::EventBatch>();
    batch->revision = revision;
    batch->events = std::move(events);
    return {.batch = std::move(batch), .selection = nullptr};
}

TEST(WatchFrames, AreMadeOnceForAllWhoTakeTheSame) {
    EtcdServiceStats stats;
    store::Delivery all = delivery({{kv("a", "1", 5), {}}, {kv("b", "1", 5), {}}}, 5);
    store::Delivery some = all;
    some.selection = std::make_shared<const std::vector<std::uint32_t>>(1, 1);
    const WatchFrameKey zero{.watch_id = 0}, one{.watch_id = 1};
    const auto first = watch_frames(all, zero, kHeader, 1000, stats);
    EXPECT_EQ(watch_frames(all, zero, kHeader, 1000, stats), first);
    EXPECT_NE(watch_frames(all, one, kHeader, 1000, stats), first);
    EXPECT_EQ(stats.frames_built, 2U);
    const auto part = watch_frames(some, zero, kHeader, 1000, stats);
    const auto message = parse<etcdpb::WatchResponse>(part->at(0));
    ASSERT_EQ(message.events_size(), 1);
    EXPECT_EQ(message.events(0).kv().key(), "b");
    EXPECT_EQ(message.header().revision(), 5);
}

TEST(WatchFrames, ManyWatchesShareTheEventsBehindTheirOwnHead) {
    EtcdServiceStats stats;
    const store::Delivery small = delivery({{kv("a", "1", 5), {}}}, 5);
    const store::Delivery large = delivery({{kv("a", std::string(5000, 'v'), 6), {}}}, 6);
    const char* shared = nullptr;
    for (std::int64_t id = 0; id < 100; ++id) {
        const WatchFrameKey key{.watch_id = id * 1'000'000'007};
        const rpc::Frame of_small = watch_frames(small, key, kHeader, 10'000, stats)->at(0);
        EXPECT_EQ(of_small.tail().empty(), id < 16);
        const rpc::Frame of_large = watch_frames(large, key, kHeader, 10'000, stats)->at(0);
        if (shared == nullptr) shared = of_large.tail().data();
        EXPECT_EQ(of_large.tail().data(), shared);
        EXPECT_GT(of_large.tail().size(), 5000U);
        for (const rpc::Frame& frame : {of_small, of_large}) {
            const auto message = parse<etcdpb::WatchResponse>(frame);
            EXPECT_EQ(message.watch_id(), key.watch_id);
            ASSERT_EQ(message.events_size(), 1);
            EXPECT_EQ(message.events(0).kv().key(), "a");
            const std::string bytes = bytes_of(frame);
            const auto length =
                static_cast<std::uint8_t>(bytes[3]) * 256U + static_cast<std::uint8_t>(bytes[4]);
            EXPECT_EQ(length + rpc::kFramePrefix, frame.size());
        }
    }
}

TEST(WatchFrames, AreCutBetweenRevisionsAndWithinOnlyForFragments) {
    EtcdServiceStats stats;
    std::vector<store::Event> events;
    for (const store::Revision revision : {5, 5, 5, 6, 7, 7})
        events.push_back({kv("a", std::string(100, 'v'), revision), {}});
    const store::Delivery large = delivery(std::move(events), 9);
    const auto describe = [&](bool fragment, std::size_t max) {
        std::string text;
        const WatchFrames frames =
            watch_frames(large, {.watch_id = 3, .fragment = fragment}, kHeader, max, stats);
        for (const rpc::Frame& frame : *frames) {
            const auto m = parse<etcdpb::WatchResponse>(frame);
            EXPECT_EQ(m.watch_id(), 3);
            text += fmt::format("{}{}@{} ", m.events_size(), m.fragment() ? "+" : "",
                                m.header().revision());
        }
        large.batch->encoded.reset();
        return text;
    };
    EXPECT_EQ(describe(false, 10'000), "6@9 ");
    EXPECT_EQ(describe(false, 50), "3@5 1@6 2@9 ");
    EXPECT_EQ(describe(true, 50), "1+@5 1+@5 1@5 1@6 1+@7 1@9 ");
    EXPECT_EQ(describe(true, 300), "2+@5 2@6 2@9 ");
}

}  // namespace
}  // namespace mesh::serve
