#include <gtest/gtest.h>

#include "model/etcdpb/etcd.pb.h"
#include "sources/etcd/codec.hpp"
#include "sources/etcd/endpoint.hpp"
#include "sources/etcd/views.hpp"

namespace mesh::etcd {
namespace {

using namespace std::string_literals;

TEST(PrefixRange, EndsBehindAllThatBeginWithIt) {
    EXPECT_EQ(prefix_range("a/").end, "a0");
    EXPECT_EQ(prefix_range("a\xff").end, "b");
    EXPECT_EQ(prefix_range("\x7f").end, "\x80");
    EXPECT_EQ(prefix_range("\xff\xff").end, "\0"s);
    EXPECT_EQ(prefix_range("\xff\xff").key, "\xff\xff");
    EXPECT_EQ(prefix_range("").key, "\0"s);
    EXPECT_EQ(prefix_range("").end, "\0"s);
}

TEST(Endpoint, Forms) {
    const auto same = [](std::string_view text, bool tls_default, bool tls, std::string host,
                         std::uint16_t port) {
        const auto e = parse_endpoint(text, tls_default);
        ASSERT_TRUE(e) << e.error().message();
        EXPECT_EQ(e->tls, tls) << text;
        EXPECT_EQ(e->host, host) << text;
        EXPECT_EQ(e->port, port) << text;
    };
    same("https://a.mesh.cilium.io:32379", false, true, "a.mesh.cilium.io", 32379);
    same("http://127.0.0.1:2379/", true, false, "127.0.0.1", 2379);
    same("localhost:1", true, true, "localhost", 1);
    same("localhost", false, false, "localhost", 2379);
    same("https://[::1]:2379", false, true, "::1", 2379);
    same("https://[fd00::1]", false, true, "fd00::1", 2379);
}

TEST(Endpoint, RefusalsNameTheText) {
    for (const char* text :
         {"", "https://", "ftp://a:1", "a:0", "a:65536", "a:x", "a:", "::1", "[::1", "[::1]x",
          "https://[::1]:", "a b:1", "http://a/b:1", "u@a:1", "unix:///tmp/x"}) {
        const auto e = parse_endpoint(text, false);
        ASSERT_FALSE(e) << text;
        EXPECT_EQ(e.error().code(), Errc::kInvalidArgument);
        EXPECT_NE(e.error().detail().find("endpoint \""s + text + "\": expected"),
                  std::string::npos);
    }
}

etcdpb::WatchResponse sample_watch() {
    etcdpb::WatchResponse r;
    r.mutable_header()->set_cluster_id(0xfffffffffffffff1U);
    r.mutable_header()->set_member_id(2);
    r.mutable_header()->set_revision(42);
    r.mutable_header()->set_raft_term(7);
    r.set_watch_id(3);
    r.set_created(true);
    r.set_canceled(true);
    r.set_compact_revision(9);
    r.set_cancel_reason("why");
    r.set_fragment(true);
    auto* put = r.add_events();
    put->mutable_kv()->set_key("k\0y"s);
    put->mutable_kv()->set_value("v");
    put->mutable_kv()->set_create_revision(1);
    put->mutable_kv()->set_mod_revision(41);
    put->mutable_kv()->set_version(5);
    put->mutable_kv()->set_lease(-6);
    put->mutable_prev_kv()->set_mod_revision(40);
    auto* del = r.add_events();
    del->set_type(etcdpb::Event::DELETE);
    del->mutable_kv()->set_key("gone");
    del->mutable_kv()->set_mod_revision(42);
    return r;
}

TEST(Views, WatchReadsWhatProtobufWrites) {
    const std::string bytes = sample_watch().SerializeAsString();
    detail::WatchView v;
    ASSERT_TRUE(detail::parse_watch(bytes, v));
    EXPECT_TRUE(v.has_header);
    EXPECT_EQ(v.header, (Header{0xfffffffffffffff1U, 2, 42, 7}));
    EXPECT_EQ(v.watch_id, 3);
    EXPECT_TRUE(v.created && v.canceled && v.fragment);
    EXPECT_EQ(v.compact_revision, 9);
    EXPECT_EQ(v.cancel_reason, "why");
    ASSERT_EQ(v.events.size(), 2U);
    EXPECT_EQ(v.events[0].kv.key, "k\0y"s);
    EXPECT_EQ(v.events[0].kv.lease, -6);
    EXPECT_EQ(v.events[0].kv.version, 5);
    EXPECT_EQ(v.events[0].prev_kv.mod_revision, 40);
    EXPECT_EQ(v.events[1].kind, WatchEvent::Kind::kDelete);
    EXPECT_EQ(v.events[1].kv.mod_revision, 42);
}

TEST(Views, AnyCutOrFlipIsRefusedOrRead) {
    const std::string bytes = sample_watch().SerializeAsString();
    for (std::size_t n = 0; n < bytes.size(); ++n) {
        detail::WatchView v;
        static_cast<void>(detail::parse_watch(std::string(bytes.substr(0, n)), v));
        std::string flipped = bytes;
        flipped[n] = static_cast<char>(flipped[n] ^ 0x85);
        detail::WatchView w;
        static_cast<void>(detail::parse_watch(flipped, w));
    }
    detail::RangeView r;
    EXPECT_FALSE(detail::parse_range("\x12\x7f", r));
    EXPECT_FALSE(detail::parse_range("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", r));
    EXPECT_FALSE(detail::parse_range("\x0f", r));
    EXPECT_FALSE(detail::parse_range("\x00\x01"s, r));
}

TEST(Views, RangeSkipsFieldsOfLaterVersions) {
    etcdpb::RangeResponse r;
    r.mutable_header()->set_cluster_id(1);
    r.add_kvs()->set_key("a");
    r.set_count(5);
    r.set_more(true);
    std::string bytes = r.SerializeAsString();
    bytes += "\xfa\x01\x03xyz"s;                           // field 31, bytes
    bytes += "\xf9\x01\x01\x02\x03\x04\x05\x06\x07\x08"s;  // field 31, fixed64
    detail::RangeView v;
    ASSERT_TRUE(detail::parse_range(bytes, v));
    EXPECT_EQ(v.kvs.size(), 1U);
    EXPECT_EQ(v.count, 5);
    EXPECT_TRUE(v.more);
}

TEST(Codec, TxnKeepsTheOrderOfItsParts) {
    Txn txn;
    txn.compare.push_back({"k", Compare::Target::kVersion, Compare::Is::kEqual, 0, ""});
    txn.compare.push_back({"k", Compare::Target::kValue, Compare::Is::kNotEqual, 0, "x"});
    txn.success.emplace_back(PutOp{"k", "v", 7});
    txn.success.emplace_back(GetOp{{"k", ""}, 3});
    txn.failure.emplace_back(DeleteOp{prefix_range("k/")});
    const auto wire = detail::encode(txn);
    EXPECT_EQ(wire.compare(0).target(), etcdpb::Compare::VERSION);
    EXPECT_EQ(wire.compare(0).target_union_case(), etcdpb::Compare::kVersion);
    EXPECT_EQ(wire.compare(1).result(), etcdpb::Compare::NOT_EQUAL);
    EXPECT_EQ(wire.compare(1).value(), "x");
    EXPECT_EQ(wire.success(0).request_put().lease(), 7);
    EXPECT_EQ(wire.success(1).request_range().limit(), 3);
    EXPECT_EQ(wire.failure(0).request_delete_range().range_end(), "k0");
}

TEST(Codec, CompactedIsToldApart) {
    const auto code = [](std::string text) {
        return detail::error_of({rpc::StatusCode::kOutOfRange, std::move(text)}).code();
    };
    EXPECT_EQ(code("etcdserver: mvcc: required revision has been compacted"), Errc::kCompacted);
    EXPECT_EQ(code("etcdserver: mvcc: required revision is a future revision"),
              Errc::kInvalidArgument);
}

}  // namespace
}  // namespace mesh::etcd
