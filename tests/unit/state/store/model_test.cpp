// Random operations on a Store and on a naive model of etcd that keeps every version of everything
// in plain containers; after each, both must give the same answers, past revisions and watches
// included.
#include <algorithm>
#include <map>
#include <set>

#include "store_fixture.hpp"

namespace mesh::store::testing {
namespace {

struct ModelValue {
    std::string value;
    Revision create = 0, mod = 0;
    std::int64_t version = 0;
    std::int64_t lease = 0;
};
using ModelState = std::map<std::string, ModelValue>;
struct ModelEvent {
    std::string key, text;
    Revision mod = 0;
};

/// Every revision's whole state, and all events.
class Model {
  public:
    Revision revision = 1;
    Revision compacted = 0;
    std::map<Revision, ModelState> states{{1, {}}};
    std::vector<ModelEvent> events;

    ModelState& now() { return states[revision]; }
    void begin() {
        states[revision + 1] = now();
        ++revision;
    }
    void put(const std::string& key, const std::string& value, std::int64_t lease) {
        ModelState& state = now();
        const auto before = state.find(key);
        ModelValue next{
            .value = value, .create = revision, .mod = revision, .version = 1, .lease = lease};
        std::string text = fmt::format("+{}={}@{}", key, value, revision);
        if (before != state.end()) {
            next.create = before->second.create;
            next.version = before->second.version + 1;
        }
        state[key] = next;
        events.push_back({key, text, revision});
    }
    void erase(const std::string& key) {
        now().erase(key);
        events.push_back({key, fmt::format("-{}@{}", key, revision), revision});
    }
    std::vector<std::string> keys(const std::string& from, const std::string& to) {
        std::vector<std::string> found;
        for (const auto& [key, value] : now())
            if (key >= from && key < to) found.push_back(key);
        return found;
    }
    std::string dump(Revision at, const std::string& from, const std::string& to) const {
        std::string text;
        for (const auto& [key, v] : states.at(at))
            if (key >= from && key < to)
                text += fmt::format("{}={}@{},{},{},{} ", key, v.value, v.mod, v.create, v.version,
                                    v.lease);
        return text;
    }
    std::vector<std::string> history(Revision start, const std::string& from,
                                     const std::string& to) const {
        std::vector<std::string> found;
        for (const ModelEvent& event : events)
            if (event.mod >= start && event.key >= from && event.key < to)
                found.push_back(event.text);
        return found;
    }
};

/// Collects events as texts without the previous values; refuses deliveries now and then.
class MoodySink final : public WatchSink {
  public:
    explicit MoodySink(Rng& rng) : rng_(rng) {}
    bool on_events(WatchId, const Delivery& delivery) override {
        if (rng_.below(4) == 0) {
            full = true;
            return false;
        }
        const auto take = [this](const Event& event) {
            const KeyValue& kv = event.kv;
            texts.push_back(
                kv.tombstone() ? fmt::format("-{}@{}", kv.key(), kv.mod_revision())
                               : fmt::format("+{}={}@{}", kv.key(), kv.value(), kv.mod_revision()));
        };
        if (delivery.selection)
            for (const std::uint32_t i : *delivery.selection) take(delivery.batch->events[i]);
        else
            for (const Event& event : delivery.batch->events) take(event);
        return true;
    }
    void on_progress(WatchId, Revision) override {}
    void on_cancelled(WatchId, CancelReason, Revision) override { cancelled = true; }

    std::vector<std::string> texts;
    bool full = false;
    bool cancelled = false;

  private:
    Rng& rng_;
};

class Comparison {
  public:
    explicit Comparison(std::uint64_t seed) : rng(seed) {
        store = memory_store({.catch_up_events = 3});
        for (int i = 1; i <= 3; ++i)
            EXPECT_TRUE(store->lease_grant(LeaseId{i}, seconds(1'000'000), TimePoint{}));
    }

    std::string random_key() { return fmt::format("k{:03}", rng.below(160)); }
    std::pair<std::string, std::string> random_range() {
        std::string a = random_key(), b = random_key();
        if (b < a) std::swap(a, b);
        return {a, b + "~"};
    }

    void put_one() {
        const std::string key = random_key(), value = fmt::format("v{}", rng.below(1000));
        const auto lease = static_cast<std::int64_t>(rng.below(4));
        model.begin();
        model.put(key, value, lease);
        auto done = store->put({.key = key, .value = value, .lease = LeaseId{lease}});
        ASSERT_TRUE(done);
        ASSERT_EQ(done->revision, model.revision);
    }
    void delete_some() {
        const auto [from, to] = rng.below(3) != 0 ? [this] {
            const std::string key = random_key();
            return std::pair(key, key + "~");
        }() : random_range();
        const auto keys = model.keys(from, to);
        if (!keys.empty()) model.begin();
        for (const std::string& key : keys) model.erase(key);
        auto done = store->delete_range({.range = {from, to}, .prev_kv = true});
        ASSERT_TRUE(done);
        ASSERT_EQ(done->deleted, static_cast<std::int64_t>(keys.size()));
        ASSERT_EQ(done->revision, model.revision);
    }
    void txn_some() {
        std::set<std::string> keys;
        for (std::uint64_t i = 1 + rng.below(5); i > 0; --i) keys.insert(random_key());
        std::vector<std::string> values;
        for (std::size_t i = 0; i < keys.size(); ++i)
            values.push_back(fmt::format("t{}", rng.below(99)));
        const std::string probe = random_key();
        TxnRequest txn;
        txn.compare = {{.target = Compare::Target::kVersion,
                        .result = Compare::Result::kGreater,
                        .range = {probe, ""},
                        .number = 1}};
        std::size_t i = 0;
        for (const std::string& key : keys)
            txn.success.push_back({PutRequest{.key = key, .value = values[i++]}});
        for (const std::string& key : keys)
            txn.failure.push_back({DeleteRangeRequest{.range = {key, ""}}});
        const auto found = model.now().find(probe);
        const bool success = found != model.now().end() && found->second.version > 1;
        std::vector<std::string> gone;
        for (const std::string& key : keys)
            if (model.now().count(key) != 0) gone.push_back(key);
        if (success || !gone.empty()) model.begin();
        i = 0;
        if (success)
            for (const std::string& key : keys) model.put(key, values[i++], 0);
        else
            for (const std::string& key : gone) model.erase(key);
        auto done = store->txn(txn);
        ASSERT_TRUE(done);
        ASSERT_EQ(done->succeeded, success);
        ASSERT_EQ(done->revision, model.revision);
    }
    void revoke_one() {
        const auto lease = static_cast<std::int64_t>(1 + rng.below(3));
        std::vector<std::string> keys;
        for (const auto& [key, value] : model.now())
            if (value.lease == lease) keys.push_back(key);
        if (!keys.empty()) model.begin();
        for (const std::string& key : keys) model.erase(key);
        ASSERT_EQ(*store->lease_revoke(LeaseId{lease}), model.revision);
        ASSERT_TRUE(store->lease_grant(LeaseId{lease}, seconds(1'000'000), TimePoint{}));
    }
    void compact_some() {
        const auto span = static_cast<std::uint64_t>(model.revision - model.compacted);
        const Revision at = model.compacted + static_cast<Revision>(rng.below(span + 1));
        const bool first = std::exchange(never_compacted, false);
        auto done = store->compact(at);
        if (at <= model.compacted && !first) {
            ASSERT_FALSE(done);
            return;
        }
        ASSERT_TRUE(done) << "at 0 it is good once";
        model.compacted = at;
        model.states.erase(model.states.begin(), model.states.lower_bound(at));
    }

    std::string dump_store(Revision at, const std::string& from, const std::string& to) {
        auto answer = store->range({.range = {from, to}, .revision = at});
        if (!answer) return std::string(to_string(answer.error().fault()));
        std::string text;
        for (const KeyValue& kv : answer->kvs)
            text += fmt::format("{}={}@{},{},{},{} ", kv.key(), kv.value(), kv.mod_revision(),
                                kv.create_revision(), kv.version(), number(kv.lease()));
        if (answer->count != static_cast<std::int64_t>(answer->kvs.size())) text += "wrong count";
        return text;
    }
    void check_reads() {
        const auto [from, to] = random_range();
        const auto back =
            rng.below(static_cast<std::uint64_t>(model.revision - model.compacted) + 1);
        const Revision at =
            std::max<Revision>({model.revision - static_cast<Revision>(back), model.compacted, 1});
        ASSERT_EQ(dump_store(at, from, to), model.dump(at, from, to)) << "at " << at;
        ASSERT_EQ(dump_store(0, "k", "l"), model.dump(model.revision, "k", "l"));
        for (int lease = 1; lease <= 3; ++lease) {
            std::vector<std::string> keys;
            for (const auto& [key, value] : model.now())
                if (value.lease == lease) keys.push_back(key);
            ASSERT_EQ(store->lease_time_to_live(LeaseId{lease}, true, TimePoint{}).keys, keys);
        }
    }

    struct Watched {
        std::unique_ptr<MoodySink> sink;
        WatchId id{};
        Revision start = 0;
        std::string from, to;
    };
    void watch_some() {
        Watched w;
        std::tie(w.from, w.to) = random_range();
        w.sink = std::make_unique<MoodySink>(rng);
        w.start = model.compacted +
                  static_cast<Revision>(
                      rng.below(static_cast<std::uint64_t>(model.revision - model.compacted) + 4));
        w.start = std::max<Revision>(w.start, 1);
        auto id = store->watch({.range = {w.from, w.to}, .start_revision = w.start}, *w.sink);
        ASSERT_TRUE(id);
        w.id = *id;
        watched.push_back(std::move(w));
    }
    void pump(bool all) {
        for (int turn = 0; turn < (all ? 100'000 : 3); ++turn) {
            for (Watched& w : watched)
                if (std::exchange(w.sink->full, false)) store->resume(w.id);
            const bool more = store->catch_up(16);
            const bool waiting = std::any_of(watched.begin(), watched.end(),
                                             [](const Watched& w) { return w.sink->full; });
            if (!more && !waiting) break;
        }
    }
    void check_watches() {
        pump(true);
        for (const Watched& w : watched) {
            const auto expected = model.history(w.start, w.from, w.to);
            if (w.sink->cancelled) {
                ASSERT_LE(w.sink->texts.size(), expected.size());
                ASSERT_TRUE(
                    std::equal(w.sink->texts.begin(), w.sink->texts.end(), expected.begin()));
            } else {
                ASSERT_EQ(w.sink->texts, expected) << w.from << " from " << w.start;
            }
        }
    }
    void step() {
        const std::uint64_t dice = rng.below(100);
        if (dice < 50)
            put_one();
        else if (dice < 68)
            delete_some();
        else if (dice < 84)
            txn_some();
        else if (dice < 86)
            revoke_one();
        else if (dice < 88)
            compact_some();
        else if (dice < 94)
            watch_some();
        else
            pump(false);
        if (rng.below(8) == 0) check_reads();
    }

    Rng rng;
    std::unique_ptr<Store> store;
    Model model;
    bool never_compacted = true;
    std::vector<Watched> watched;
};

class StoreModel : public ::testing::TestWithParam<std::uint64_t> {};

TEST_P(StoreModel, AgreesWithANaiveStore) {
    Comparison comparison(GetParam());
    for (int i = 0; i < 900 && !::testing::Test::HasFatalFailure(); ++i) comparison.step();
    comparison.check_watches();
    comparison.check_reads();
}

INSTANTIATE_TEST_SUITE_P(Seeds, StoreModel, ::testing::Range<std::uint64_t>(1, 13));

/// A mirror fed by another store's watch and, now and then, by its lists must show the same, and
/// tell its own watchers changes that add up to the same.
TEST_P(StoreModel, AMirrorFollowsItsUpstream) {
    Rng rng(GetParam());
    auto upstream = memory_store();
    auto mirror = memory_store();
    RecordingSink feed;
    const auto list = [&](bool same) {
        auto answer = upstream->range({.range = {kFromZero, kFromZero}});
        ASSERT_TRUE(mirror->reset_from_snapshot(answer->revision, answer->kvs, same));
    };
    list(false);
    ASSERT_TRUE(upstream->watch({.range = {kFromZero, kFromZero}}, feed));
    RecordingSink seen;
    ASSERT_TRUE(mirror->watch({.range = {kFromZero, kFromZero}}, seen));
    bool connected = true;
    for (int i = 0; i < 600; ++i) {
        const std::string key = fmt::format("k{}", rng.below(40));
        if (rng.below(3) == 0)
            del(*upstream, key, rng.below(2) == 0 ? prefix_end(key) : std::string());
        else
            put(*upstream, key, fmt::format("{}", i));
        for (const auto& batch : std::exchange(feed.batches, {})) {
            if (!connected) continue;
            std::vector<KeyValue> events;
            for (const Event& event : batch->events) events.push_back(event.kv);
            ASSERT_TRUE(mirror->apply_upstream(batch->revision, events));
        }
        if (rng.below(20) == 0) {
            if (!connected) list(true);
            connected = !connected;
        }
        if (!connected) continue;
        if (rng.below(30) == 0 && mirror->revision() > mirror->compact_revision()) {
            ASSERT_TRUE(mirror->compact(mirror->revision()));
        }
        ASSERT_EQ(dump_all(*mirror), dump_all(*upstream));
    }
    if (!connected) list(true);
    ASSERT_EQ(dump_all(*mirror), dump_all(*upstream));
    std::map<std::string, std::string> replayed;
    for (const auto& batch : seen.batches)
        for (const Event& event : batch->events) {
            const std::string key(event.kv.key());
            if (event.kv.tombstone()) {
                ASSERT_EQ(replayed.erase(key), 1U) << "exact deletes";
            } else {
                replayed[key] = event.kv.value();
            }
        }
    std::map<std::string, std::string> expected;
    auto answer = upstream->range({.range = {kFromZero, kFromZero}});
    for (const KeyValue& kv : answer->kvs) expected[std::string(kv.key())] = kv.value();
    EXPECT_EQ(replayed, expected);
}

}  // namespace
}  // namespace mesh::store::testing
