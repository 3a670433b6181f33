// The durable backend: reopening, kill -9, full disks, foreign files; and what a store does when
// its backend refuses.
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include "state/store/lmdb_backend.hpp"
#include "store_fixture.hpp"

namespace mesh::store::testing {
namespace {

namespace fs = std::filesystem;

class StoreLmdb : public ::testing::Test {
  protected:
    void SetUp() override {
        std::string name = (fs::temp_directory_path() / "store_test.XXXXXX").string();
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        root = name;
        options.directory = name + "/db";
        options.sync = false;  // what is tested is kill -9, not the loss of power
    }
    void TearDown() override { fs::remove_all(root); }

    Outcome<std::unique_ptr<Store>> try_open(TimePoint now = {}) {
        MESH_TRY(auto backend, open_lmdb(options));
        return Store::open(std::move(backend),
                           {.identity = {.cluster_id = 11, .member_id = 12},
                            .lease_checkpoint_interval = seconds(10)},
                           now);
    }
    std::unique_ptr<Store> open(TimePoint now = {}) {
        auto store = try_open(now);
        EXPECT_TRUE(store) << store.error().to_error().message();
        return store ? *std::move(store) : nullptr;
    }

    fs::path root;
    LmdbOptions options;
};

TEST_F(StoreLmdb, EverythingIsThereAfterReopening) {
    ManualClock clock;
    auto store = open(clock.now());
    ASSERT_TRUE(store->lease_grant(LeaseId{5}, seconds(100), clock.now()));
    ASSERT_TRUE(store->lease_grant(LeaseId{6}, seconds(100), clock.now()));
    put(*store, "a", "1");                        // 2
    put(*store, "a", "2", LeaseId{5});            // 3
    put(*store, "b", "1");                        // 4
    del(*store, "b");                             // 5
    put(*store, "c", std::string(100'000, 'x'));  // 6
    TxnRequest txn;
    txn.success = {{PutRequest{.key = "t2", .value = "1"}},
                   {PutRequest{.key = "t1", .value = "1"}}};
    ASSERT_TRUE(store->txn(txn));  // 7
    ASSERT_TRUE(store->compact(3));
    ASSERT_TRUE(store->lease_revoke(LeaseId{6}));
    clock.advance(seconds(30));
    ASSERT_TRUE(store->tick(clock.now()));

    store.reset();
    clock.advance(seconds(1000));
    store = open(clock.now());
    EXPECT_EQ(store->revision(), 7);
    EXPECT_EQ(store->compact_revision(), 3);
    EXPECT_EQ(store->identity(), (Identity{.cluster_id = 11, .member_id = 12}));
    EXPECT_EQ(dump_all(*store, 2), "mvcc: required revision has been compacted");
    EXPECT_EQ(dump_all(*store, 4), "a=2@3 b=1@4");
    EXPECT_EQ(dump_all(*store, 5), "a=2@3");
    const KeyValue a = store->range({.range = {"a", ""}})->kvs[0];
    EXPECT_EQ(a.version(), 2);
    EXPECT_EQ(a.create_revision(), 2);
    EXPECT_EQ(a.lease(), LeaseId{5});
    EXPECT_EQ(store->range({.range = {"c", ""}})->kvs[0].value().size(), 100'000U);
    EXPECT_EQ(store->leases(), std::vector<LeaseId>{LeaseId{5}});
    const LeaseInfo lease = store->lease_time_to_live(LeaseId{5}, true, clock.now());
    EXPECT_EQ(lease.granted, seconds(100));
    EXPECT_EQ(lease.remaining, seconds(70)) << "what was left when it was last made durable";
    EXPECT_EQ(lease.keys, std::vector<std::string>{"a"});
    RecordingSink sink;
    ASSERT_TRUE(store->watch({.range = {"t", "u"}, .start_revision = 3}, sink));
    while (store->catch_up()) {
    }
    EXPECT_EQ(sink.take(), "+t2=1@7 +t1=1@7") << "order within the revision is kept";
    clock.advance(seconds(70));
    EXPECT_EQ(*store->tick(clock.now()), 1U);
    EXPECT_EQ(put(*store, "d", "1"), 9);
}

TEST_F(StoreLmdb, ARenewedLeaseStartsAfreshAfterReopening) {
    ManualClock clock;
    auto store = open(clock.now());
    ASSERT_TRUE(store->lease_grant(LeaseId{5}, seconds(100), clock.now()));
    clock.advance(seconds(90));
    ASSERT_TRUE(store->tick(clock.now()));
    ASSERT_TRUE(store->lease_keep_alive(LeaseId{5}, clock.now()));
    store = nullptr;
    store = open(clock.now());
    EXPECT_EQ(store->lease_time_to_live(LeaseId{5}, false, clock.now()).remaining, seconds(100));
}

TEST_F(StoreLmdb, CompactionShrinksWhatIsStored) {
    auto store = open();
    for (int i = 0; i < 500; ++i) put(*store, "a", fmt::format("{}", i));
    put(*store, "b", "1");
    del(*store, "b");
    put(*store, "c", "1");
    ASSERT_TRUE(store->compact(store->revision()));
    store.reset();
    store = open();
    EXPECT_EQ(dump_all(*store), "a=499@501 c=1@504");
    EXPECT_EQ(store->stats().log_entries, 1U);
    std::size_t records = 0;
    store.reset();
    auto backend = open_lmdb(options);
    ASSERT_TRUE(backend);
    ASSERT_TRUE((*backend)->load([&records](KeyValue) -> Outcome<void> {
        ++records;
        return {};
    }));
    EXPECT_EQ(records, 2U);
}

TEST_F(StoreLmdb, TheMapGrowsUpToItsBound) {
    options.initial_map_bytes = 1 << 20;
    options.max_map_bytes = 4 << 20;
    auto store = open();
    const std::string value(50'000, 'v');
    std::optional<StoreError> error;
    int written = 0;
    for (; written < 200 && !error; ++written) {
        auto done = store->put({.key = fmt::format("k{}", written), .value = value});
        if (!done) error = done.error();
    }
    ASSERT_TRUE(error) << "the bound holds";
    EXPECT_EQ(error->fault(), Fault::kNoSpace);
    EXPECT_NE(error->detail().find(options.directory + "/data.mdb"), std::string::npos)
        << error->detail();
    EXPECT_GT(written, 40) << "it grew beyond its first size";
    const Revision reached = store->revision();
    EXPECT_EQ(reached, written) << "the refused put took no revision";
    EXPECT_EQ(store->stats().keys, static_cast<std::size_t>(written - 1));
    ASSERT_TRUE(store->compact(reached)) << "there is room to make room";
    store.reset();
    store = open();
    EXPECT_EQ(store->revision(), reached);
    EXPECT_EQ(store->stats().keys, static_cast<std::size_t>(written - 1));
}

// A child whose files may not grow stands for a full disk: the write fails the same way.
TEST_F(StoreLmdb, AFullDiskIsAnErrorAndTheStoreStaysGood) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        ::signal(SIGXFSZ, SIG_IGN);
        auto store = try_open();
        if (!store) ::_exit(10);
        if (!(*store)->put({.key = "before", .value = "1"})) ::_exit(11);
        RecordingSink sink;
        if (!(*store)->watch({.range = {kFromZero, kFromZero}}, sink)) ::_exit(12);
        const auto size = static_cast<rlim_t>((*store)->backend().size_bytes());
        rlimit limit{.rlim_cur = size, .rlim_max = RLIM_INFINITY};
        ::setrlimit(RLIMIT_FSIZE, &limit);
        const std::string value(1'000'000, 'v');
        auto failed = (*store)->put({.key = "big", .value = value});
        if (failed || failed.error().fault() != Fault::kNoSpace) ::_exit(13);
        if ((*store)->revision() != 2 || dump_all(**store) != "before=1@2") ::_exit(14);
        if (!sink.texts.empty()) ::_exit(15);
        limit.rlim_cur = RLIM_INFINITY;
        ::setrlimit(RLIMIT_FSIZE, &limit);
        if (!(*store)->put({.key = "after", .value = "1"})) ::_exit(16);
        if (sink.take() != "+after=1@3") ::_exit(17);
        ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status));
    ASSERT_EQ(WEXITSTATUS(status), 0);
    auto store = open();
    EXPECT_EQ(dump_all(*store), "after=1@3 before=1@2");
}

TEST_F(StoreLmdb, ForeignFilesAreRefusedByName) {
    fs::create_directory(options.directory);
    std::ofstream(options.directory + "/data.mdb") << std::string(10'000, 'x');
    auto store = try_open();
    ASSERT_FALSE(store);
    EXPECT_EQ(store.error().fault(), Fault::kCorrupt);
    EXPECT_NE(store.error().detail().find(options.directory + "/data.mdb"), std::string::npos)
        << store.error().detail();
}

TEST_F(StoreLmdb, FilesCutShortOrOverwrittenAreRefusedByName) {
    {
        auto store = open();
        for (int i = 0; i < 2000; ++i) put(*store, fmt::format("k{}", i), std::string(300, 'v'));
    }
    const std::string file = options.directory + "/data.mdb";
    const auto size = fs::file_size(file);
    const std::string intact = (root / "intact").string();
    fs::copy_file(file, intact);
    const auto refused = [&] {
        auto store = try_open();
        return !store && store.error().fault() == Fault::kCorrupt &&
               store.error().detail().find(file) != std::string::npos;
    };
    for (const std::uintmax_t kept : {size / 2, size / 10, std::uintmax_t{5000}}) {
        fs::resize_file(file, kept);
        EXPECT_TRUE(refused()) << kept << " of " << size << " bytes";
        fs::copy_file(intact, file, fs::copy_options::overwrite_existing);
    }
    {
        std::fstream damage(file, std::ios::in | std::ios::out | std::ios::binary);
        damage.seekp(static_cast<std::streamoff>(size / 4096 / 2 * 4096));
        damage << std::string(40'960, '\0');
    }
    EXPECT_TRUE(refused());
    fs::copy_file(intact, file, fs::copy_options::overwrite_existing);
    EXPECT_TRUE(try_open());
}

TEST_F(StoreLmdb, OneOwnerAtATime) {
    auto store = open();
    auto second = try_open();
    ASSERT_FALSE(second);
    EXPECT_NE(second.error().detail().find("in use"), std::string::npos);
}

TEST_F(StoreLmdb, AMissingParentIsNamed) {
    options.directory = (root / "no" / "such").string();
    auto store = try_open();
    ASSERT_FALSE(store);
    EXPECT_NE(store.error().detail().find(options.directory), std::string::npos);
}

// --- kill -9
// ------------------------------------------------------------------------------------------

/// What the writer acknowledged, one line each, flushed to a pipe before the next operation.
struct Acknowledged {
    std::map<std::string, std::string> values;
    std::map<std::int64_t, bool> leases;
    Revision revision = 1;
    Revision compacted = 0;

    void apply(const std::string& line) {
        std::istringstream words(line);
        std::string what, key, value;
        std::int64_t id = 0;
        words >> what;
        if (what == "put") {
            words >> key >> value >> revision;
            values[key] = value;
        } else if (what == "del") {
            words >> key >> revision;
            values.erase(key);
        } else if (what == "grant" || what == "revoke") {
            words >> id;
            leases[id] = what == "grant";
            if (what == "revoke") {
                words >> key >> revision;
                values.erase(key);
            }
        } else if (what == "compact") {
            words >> compacted;
        }
    }
};

/// Works until it is killed; every fourth step is a group of puts with one commit.
[[noreturn]] void write_until_killed(Store& store, int acknowledge) {
    const auto say = [acknowledge](const std::string& text) {
        const std::string line = text + "\n";
        if (::write(acknowledge, line.data(), line.size()) < 0) ::_exit(20);
    };
    const std::string filler(700, 'f');
    for (int step = 0;; ++step) {
        const std::string key = fmt::format("key{}", step % 50);
        const LeaseId lease{1000 + step};
        std::string lines;
        switch (step % 6) {
            case 0:
            case 1:
                say(fmt::format("put {} v{} {}", key, step,
                                put(store, key, fmt::format("v{}", step))));
                break;
            case 2:
                say(fmt::format("del {} {}", key, del(store, key)));
                break;
            case 3: {
                store.hold();
                for (int i = 0; i < 20; ++i)
                    lines += fmt::format(
                        "put group{} {}{} {}\n", i, filler, step,
                        put(store, fmt::format("group{}", i), fmt::format("{}{}", filler, step)));
                if (!store.flush()) ::_exit(21);
                lines.pop_back();
                say(lines);
                break;
            }
            case 4: {
                if (!store.lease_grant(lease, seconds(1000), TimePoint{})) ::_exit(22);
                say(fmt::format("grant {}", number(lease)));
                say(fmt::format("put leased {} {}", step,
                                put(store, "leased", fmt::format("{}", step), lease)));
                break;
            }
            default: {
                const LeaseId last{1000 + step - 1};
                say(fmt::format("revoke {} leased {}", number(last), *store.lease_revoke(last)));
                if (step % 36 == 5 && store.compact(store.revision() - 10))
                    say(fmt::format("compact {}", store.compact_revision()));
            }
        }
    }
}

TEST_F(StoreLmdb, WhatWasAcknowledgedSurvivesKill9) {
    Acknowledged expected;
    for (int round = 0; round < 4; ++round) {
        int pipe_ends[2];
        ASSERT_EQ(::pipe(pipe_ends), 0);
        const pid_t child = ::fork();
        ASSERT_GE(child, 0);
        if (child == 0) {
            ::close(pipe_ends[0]);
            auto store = try_open();
            if (!store) ::_exit(23);
            write_until_killed(**store, pipe_ends[1]);
        }
        ::close(pipe_ends[1]);
        // Leases are named by the step: those of earlier rounds were granted under the same names.
        std::string text;
        char buffer[4096];
        std::size_t lines = 0;
        bool killed = false;
        for (ssize_t n = 0; (n = ::read(pipe_ends[0], buffer, sizeof buffer)) > 0;) {
            text.append(buffer, static_cast<std::size_t>(n));
            lines += static_cast<std::size_t>(std::count(buffer, buffer + n, '\n'));
            if (lines > 400 && !killed) {
                ::kill(child, SIGKILL);
                killed = true;
            }
        }
        ::close(pipe_ends[0]);
        int status = 0;
        ASSERT_EQ(::waitpid(child, &status, 0), child);
        ASSERT_TRUE(WIFSIGNALED(status)) << "it ended by itself with " << WEXITSTATUS(status);

        std::istringstream stream(text);
        for (std::string line; std::getline(stream, line);)
            if (!stream.eof()) expected.apply(line);
        auto store = open();
        ASSERT_TRUE(store);
        // The operation in flight may or may not have happened; all before it have.
        EXPECT_GE(store->revision(), expected.revision);
        EXPECT_LE(store->revision(), expected.revision + 20);
        EXPECT_GE(store->compact_revision(), expected.compacted);
        int different = 0;
        for (const auto& [key, value] : expected.values) {
            auto answer =
                store->range({.range = {key, ""},
                              .revision = std::max(expected.revision, store->compact_revision())});
            ASSERT_TRUE(answer);
            if (answer->kvs.size() != 1 || answer->kvs[0].value() != value) ++different;
        }
        EXPECT_EQ(different, 0);
        RangeRequest all{.range = {kFromZero, kFromZero}, .revision = expected.revision};
        all.count_only = true;
        EXPECT_EQ(store->range(all)->count, static_cast<std::int64_t>(expected.values.size()));
        int wrong_leases = 0;
        const std::vector<LeaseId> present = store->leases();
        for (const auto& [id, granted] : expected.leases) {
            const bool there =
                std::find(present.begin(), present.end(), LeaseId{id}) != present.end();
            if (there != granted) ++wrong_leases;
        }
        EXPECT_LE(wrong_leases, 1) << "at most the one whose revocation was in flight";
        for (const LeaseId id : present) {
            ASSERT_TRUE(store->lease_revoke(id));
            expected.leases[number(id)] = false;
        }
        // The next round starts from what is there now.
        expected.values.clear();
        auto now = store->range({.range = {kFromZero, kFromZero}});
        for (const KeyValue& kv : now->kvs) expected.values[std::string(kv.key())] = kv.value();
        expected.revision = store->revision();
        expected.compacted = store->compact_revision();
    }
}

// --- A backend that refuses
// ---------------------------------------------------------------------------

/// Keeps all in memory as a durable backend would, and fails on demand.
class FlakyBackend final : public Backend {
  public:
    struct Disk {
        int commits = 0;
        int fail_in = -1;  // commits until one fails
        std::vector<WriteBatch> written;
    };
    explicit FlakyBackend(Disk& disk) : disk_(disk) {}
    Outcome<BackendState> load(const std::function<Outcome<void>(KeyValue)>&) override {
        return BackendState{};
    }
    Outcome<void> initialise(const Identity&) override { return {}; }
    Outcome<void> commit(const WriteBatch& batch) override {
        if (disk_.fail_in == 0) {
            disk_.fail_in = -1;
            return StoreError(Fault::kNoSpace, "disk full");
        }
        if (disk_.fail_in > 0) --disk_.fail_in;
        ++disk_.commits;
        disk_.written.push_back(batch);
        return {};
    }
    bool durable() const noexcept override { return true; }
    std::uint64_t size_bytes() const noexcept override { return 0; }
    std::uint64_t size_in_use_bytes() const noexcept override { return 0; }

  private:
    Disk& disk_;
};

struct FlakyStore {
    FlakyBackend::Disk disk;
    std::unique_ptr<Store> store =
        *Store::open(std::make_unique<FlakyBackend>(disk), {}, TimePoint{});
};

TEST(StoreCommit, AGroupIsOneCommitSeenOnlyAfterwards) {
    FlakyStore s;
    RecordingSink sink;
    ASSERT_TRUE(s.store->watch({.range = {"a", "z"}}, sink));
    s.store->hold();
    for (int i = 0; i < 10; ++i) put(*s.store, "a", fmt::format("{}", i));
    EXPECT_EQ(s.disk.commits, 0);
    EXPECT_EQ(sink.take(), "");
    RecordingSink late;
    ASSERT_TRUE(s.store->watch({.range = {"a", "z"}}, late));
    ASSERT_TRUE(s.store->flush());
    EXPECT_EQ(s.disk.commits, 1);
    EXPECT_EQ(s.disk.written[0].records.size(), 10U);
    EXPECT_EQ(sink.texts.size(), 10U) << "still one batch a revision";
    EXPECT_EQ(late.texts.size(), 10U);
}

TEST(StoreCommit, AFailedGroupLeavesNothing) {
    FlakyStore s;
    RecordingSink sink;
    ASSERT_TRUE(s.store->lease_grant(LeaseId{1}, seconds(60), TimePoint{}));
    put(*s.store, "a", "1", LeaseId{1});
    put(*s.store, "b", "1");
    ASSERT_TRUE(s.store->watch({.range = {"a", "z"}}, sink));
    s.store->hold();
    put(*s.store, "a", "2");
    put(*s.store, "c", "1", LeaseId{1});
    del(*s.store, "b");
    put(*s.store, "b", "again");
    ASSERT_TRUE(s.store->lease_revoke(LeaseId{1}));
    ASSERT_TRUE(s.store->lease_grant(LeaseId{2}, seconds(60), TimePoint{}));
    s.disk.fail_in = 0;
    EXPECT_EQ(s.store->flush().error().fault(), Fault::kNoSpace);
    EXPECT_EQ(s.store->revision(), 3);
    EXPECT_EQ(dump_all(*s.store), "a=1@2 b=1@3");
    EXPECT_EQ(s.store->leases(), std::vector<LeaseId>{LeaseId{1}});
    EXPECT_EQ(s.store->lease_time_to_live(LeaseId{1}, true, TimePoint{}).keys,
              std::vector<std::string>{"a"});
    EXPECT_EQ(s.store->stats().log_entries, 2U);
    EXPECT_EQ(sink.take(), "");
    EXPECT_EQ(put(*s.store, "a", "3"), 4);
    EXPECT_EQ(sink.take(), "+a=3@4<1@2");
}

TEST(StoreCommit, ACompactionThatFailsFailsTheGroupItEnds) {
    FlakyStore s;
    put(*s.store, "a", "1");
    put(*s.store, "a", "2");
    s.store->hold();
    put(*s.store, "a", "3");
    s.disk.fail_in = 0;
    EXPECT_EQ(s.store->compact(3).error().fault(), Fault::kNoSpace);
    EXPECT_EQ(s.store->flush().error().fault(), Fault::kNoSpace)
        << "the put before it must not be acknowledged";
    EXPECT_EQ(dump_all(*s.store, 2), "a=1@2");
    EXPECT_EQ(s.store->revision(), 3);
    s.disk.fail_in = 1;
    put(*s.store, "a", "3");
    EXPECT_EQ(s.store->compact(3).error().fault(), Fault::kNoSpace);
    EXPECT_EQ(s.store->compact_revision(), 0);
    EXPECT_EQ(dump_all(*s.store, 2), "a=1@2") << "nothing was forgotten";
}

TEST(StoreCommit, LeasesThatCannotExpireYetStay) {
    FlakyStore s;
    ManualClock clock;
    ASSERT_TRUE(s.store->lease_grant(LeaseId{1}, seconds(10), clock.now()));
    put(*s.store, "a", "1", LeaseId{1});
    clock.advance(seconds(20));
    s.disk.fail_in = 0;
    EXPECT_FALSE(s.store->tick(clock.now()));
    EXPECT_EQ(dump_all(*s.store), "a=1@2");
    EXPECT_EQ(*s.store->tick(clock.now()), 1U);
    EXPECT_EQ(dump_all(*s.store), "");
}

TEST(StoreCommit, ADurableStoreIsNoMirror) {
    FlakyStore s;
    EXPECT_EQ(s.store->apply_upstream(5, {}).error().fault(), Fault::kMirror);
}

}  // namespace
}  // namespace mesh::store::testing
