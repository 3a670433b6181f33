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
#include <limits>
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

// What a kill between the commits of a compaction leaves: the revision is noted, the versions are
// still there.
TEST_F(StoreLmdb, ACompactionThatWasCutOffIsFinishedLater) {
    {
        auto store = open();
        for (int i = 0; i < 5; ++i) put(*store, "a", fmt::format("{}", i));  // 2 to 6
        put(*store, "gone", "1");                                            // 7
        del(*store, "gone");                                                 // 8
        put(*store, "a", "newest");                                          // 9
        put(*store, "b", "1");                                               // 10
    }
    const auto records = [this] {
        std::string text;
        auto backend = *open_lmdb(options);
        EXPECT_TRUE(backend->load([&text](KeyValue kv) -> Outcome<void> {
            text += fmt::format("{} ", kv.mod_revision());
            return {};
        }));
        return text;
    };
    {
        auto backend = *open_lmdb(options);
        WriteBatch first;
        first.compact_revision = 9;
        first.erased = {{2, 0}, {3, 0}};
        ASSERT_TRUE(backend->commit(first));
    }
    {
        auto store = open();
        EXPECT_EQ(store->compact_revision(), 9);
        EXPECT_EQ(dump_all(*store), "a=newest@9 b=1@10");
        EXPECT_EQ(dump_all(*store, 9), "a=newest@9");
        EXPECT_EQ(store->stats().log_entries, 2U);
        EXPECT_EQ(store->stats().to_erase, 5U);
    }
    EXPECT_EQ(records(), "4 5 6 7 8 9 10 ");
    {
        auto store = open();
        ASSERT_TRUE(store->tick(TimePoint{}));
        EXPECT_EQ(store->stats().to_erase, 0U);
    }
    EXPECT_EQ(records(), "9 10 ");
    EXPECT_EQ(open()->stats().to_erase, 0U) << "a store that was compacted well has nothing to do";
}

struct FullCase {
    std::size_t value;  // bytes
    int keys;           // distinct ones
    int group;          // puts a commit
};

/// Fills a small map by overwriting keys, in several shapes.
class StoreLmdbFull : public StoreLmdb, public ::testing::WithParamInterface<FullCase> {
  protected:
    void SetUp() override {
        StoreLmdb::SetUp();
        options.initial_map_bytes = 1 << 20;
        options.max_map_bytes = 4 << 20;
    }
    std::string key(int i) const { return fmt::format("k{}", i * 7919 % GetParam().keys); }
    /// @return the refusal
    StoreError fill(Store& store) {
        const std::string value(GetParam().value, 'v');
        for (int i = 0; i < 100'000;) {
            store.hold();
            for (int n = 0; n < GetParam().group; ++n, ++i)
                EXPECT_TRUE(store.put({.key = key(i), .value = value}));
            if (Outcome<void> done = store.flush(); !done) return done.error();
        }
        ADD_FAILURE() << "it never fills";
        return {};
    }
};

TEST_P(StoreLmdbFull, CompactionMakesRoom) {
    auto store = open();
    for (int round = 0; round < 3; ++round) {
        ASSERT_EQ(fill(*store).fault(), Fault::kNoSpace);
        const std::string before = dump_all(*store);
        auto compacted = store->compact(store->revision());
        ASSERT_TRUE(compacted) << round << ": " << compacted.error().to_error().message();
        EXPECT_EQ(dump_all(*store), before);
        EXPECT_EQ(store->stats().to_erase, 0U);
        auto done = store->put({.key = "k1", .value = std::string(GetParam().value, 'w')});
        ASSERT_TRUE(done) << round << ": " << done.error().to_error().message();
    }
    const std::string before = dump_all(*store);
    store.reset();
    EXPECT_EQ(dump_all(*open()), before);
}

TEST_P(StoreLmdbFull, DeletesAndTheEndsOfLeasesHaveRoom) {
    ManualClock clock;
    auto store = open(clock.now());
    ASSERT_TRUE(store->lease_grant(LeaseId{5}, seconds(30), clock.now()));
    ASSERT_TRUE(store->lease_grant(LeaseId{6}, seconds(3000), clock.now()));
    for (int i = 0; i < 40; ++i) put(*store, fmt::format("leased{}", i), "v", LeaseId{5});
    ASSERT_EQ(fill(*store).fault(), Fault::kNoSpace);
    ASSERT_EQ(fill(*store).fault(), Fault::kNoSpace);
    clock.advance(seconds(20));
    ASSERT_TRUE(store->lease_keep_alive(LeaseId{6}, clock.now()));
    ASSERT_TRUE(store->tick(clock.now()));
    clock.advance(seconds(20));
    const auto expired = store->tick(clock.now());
    ASSERT_TRUE(expired) << expired.error().to_error().message();
    EXPECT_EQ(*expired, 1U);
    EXPECT_EQ(store->range({.range = {"leased", "leasee"}})->count, 0);
    const auto deleted = store->delete_range({.range = {"k1", ""}});
    ASSERT_TRUE(deleted) << deleted.error().to_error().message();
    EXPECT_EQ(deleted->deleted, 1);
    ASSERT_TRUE(store->lease_revoke(LeaseId{6}));
    // Deletes end somewhere too, but before compaction does.
    bool room = true;
    for (int i = 0; i < GetParam().keys && room; ++i) {
        const std::string name = key(i);
        room = store->delete_range({.range = {name, ""}}).has_value();
    }
    ASSERT_TRUE(store->compact(store->revision()));
    EXPECT_TRUE(store->delete_range({.range = {"k", "l"}}));
    EXPECT_TRUE(store->put({.key = "k1", .value = "w"}));
    ASSERT_TRUE(store->compact(store->revision()));
    EXPECT_TRUE(store->put({.key = "k1", .value = std::string(GetParam().value, 'w')}));
}

INSTANTIATE_TEST_SUITE_P(Shapes, StoreLmdbFull,
                         ::testing::Values(FullCase{.value = 10, .keys = 200, .group = 50},
                                           FullCase{.value = 100, .keys = 5003, .group = 20},
                                           FullCase{.value = 1000, .keys = 5, .group = 1},
                                           FullCase{.value = 3000, .keys = 20, .group = 7},
                                           FullCase{.value = 50'000, .keys = 10, .group = 1},
                                           FullCase{.value = 300'000, .keys = 3, .group = 4}));

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
    EXPECT_TRUE(store->compact(reached));
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

// After a failed write the file is opened anew; that may fail too, and sizes are asked all the
// same.
TEST_F(StoreLmdb, SizesCanBeAskedWhileTheFileCannotBeOpenedAnew) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        ::signal(SIGXFSZ, SIG_IGN);
        auto store = try_open();
        if (!store || !(*store)->put({.key = "a", .value = "1"})) ::_exit(10);
        const std::uint64_t in_use = (*store)->backend().size_in_use_bytes();
        if (in_use == 0) ::_exit(11);
        const auto size = static_cast<rlim_t>((*store)->backend().size_bytes());
        rlimit file{.rlim_cur = size, .rlim_max = RLIM_INFINITY};
        ::setrlimit(RLIMIT_FSIZE, &file);
        if ((*store)->put({.key = "big", .value = std::string(1'000'000, 'v')})) ::_exit(12);
        file.rlim_cur = RLIM_INFINITY;
        ::setrlimit(RLIMIT_FSIZE, &file);
        rlimit descriptors{};
        ::getrlimit(RLIMIT_NOFILE, &descriptors);
        rlimit none = descriptors;
        none.rlim_cur = 1;
        ::setrlimit(RLIMIT_NOFILE, &none);
        for (int i = 0; i < 2; ++i) {
            auto failed = (*store)->put({.key = "b", .value = "2"});
            if (failed || failed.error().fault() != Fault::kBackend) ::_exit(13);
            if ((*store)->backend().size_bytes() == 0) ::_exit(14);
            (void)(*store)->backend().size_in_use_bytes();
        }
        ::setrlimit(RLIMIT_NOFILE, &descriptors);
        if (!(*store)->put({.key = "b", .value = "3"})) ::_exit(15);
        if ((*store)->backend().size_in_use_bytes() < in_use) ::_exit(16);
        ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
    ASSERT_EQ(WEXITSTATUS(status), 0);
    EXPECT_EQ(dump_all(*open()), "a=1@2 b=3@3");
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
        bool full = false;
        std::size_t most_erased = std::numeric_limits<std::size_t>::max();  // in one commit
        std::vector<WriteBatch> written;
    };
    explicit FlakyBackend(Disk& disk) : disk_(disk) {}
    Outcome<BackendState> load(const std::function<Outcome<void>(KeyValue)>&) override {
        return BackendState{};
    }
    Outcome<void> initialise(const Identity&) override { return {}; }
    Outcome<void> commit(const WriteBatch& batch) override {
        if (disk_.fail_in == 0 || disk_.full || batch.erased.size() > disk_.most_erased) {
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
    put(*s.store, "a", "3");
    s.disk.full = true;
    EXPECT_EQ(s.store->compact(3).error().fault(), Fault::kNoSpace);
    EXPECT_EQ(s.store->compact_revision(), 0);
    EXPECT_EQ(s.store->stats().to_erase, 0U);
    EXPECT_EQ(dump_all(*s.store, 2), "a=1@2") << "nothing was forgotten";
}

TEST(StoreCommit, CompactionLooksAtEachVersionOnce) {
    FlakyStore s;
    constexpr std::uint64_t kVersions = 50'000;
    s.store->hold();
    for (std::uint64_t i = 0; i < kVersions; ++i) put(*s.store, "hot", "v");
    put(*s.store, "other", "v");
    ASSERT_TRUE(s.store->flush());
    s.disk.written.clear();
    ASSERT_TRUE(s.store->compact(s.store->revision()));
    EXPECT_LE(s.store->stats().compaction_steps, 3 * kVersions);
    std::vector<RecordPosition> erased;
    for (const WriteBatch& batch : s.disk.written) {
        EXPECT_LE(batch.erased.size(), 1000U);
        EXPECT_TRUE(batch.compacts());
        erased.insert(erased.end(), batch.erased.begin(), batch.erased.end());
    }
    EXPECT_EQ(s.disk.written.front().compact_revision, s.store->revision())
        << "nothing may go before it is noted that it may";
    ASSERT_EQ(erased.size(), kVersions - 1);
    // A deletion must not go before what it deleted: that would be back after a crash.
    EXPECT_TRUE(std::is_sorted(erased.begin(), erased.end()));
    EXPECT_EQ(std::adjacent_find(erased.begin(), erased.end()), erased.end());
}

TEST(StoreCommit, CompactionTakesTheStepsThatThereIsRoomFor) {
    FlakyStore s;
    for (int i = 0; i < 100; ++i) put(*s.store, "a", "v");
    s.disk.most_erased = 10;
    ASSERT_TRUE(s.store->compact(51));
    EXPECT_EQ(s.store->stats().to_erase, 0U);
    s.disk.most_erased = 0;
    ASSERT_TRUE(s.store->compact(101)) << "it is noted, that is enough";
    EXPECT_EQ(dump_all(*s.store), "a=v@101");
    EXPECT_EQ(s.store->stats().to_erase, 50U);
    const int commits = s.disk.commits;
    ASSERT_TRUE(s.store->tick(TimePoint{}));
    EXPECT_EQ(s.disk.commits, commits);
    s.disk.most_erased = 50;
    ASSERT_TRUE(s.store->tick(TimePoint{}));
    EXPECT_EQ(s.store->stats().to_erase, 0U);
    std::vector<RecordPosition> erased;
    for (const WriteBatch& batch : s.disk.written)
        erased.insert(erased.end(), batch.erased.begin(), batch.erased.end());
    EXPECT_EQ(erased.size(), 99U);
    EXPECT_TRUE(std::is_sorted(erased.begin(), erased.end()));
}

TEST(StoreCommit, ATxnThatFailsMidwayLeavesTheGroupAsItWas) {
    FlakyStore s;
    RecordingSink sink;
    ASSERT_TRUE(s.store->lease_grant(LeaseId{1}, seconds(60), TimePoint{}));
    put(*s.store, "a", "1", LeaseId{1});
    ASSERT_TRUE(s.store->watch({.range = {"a", "z"}}, sink));
    s.disk.written.clear();
    s.store->hold();
    put(*s.store, "b", "1");
    TxnRequest inner;
    inner.success = {{PutRequest{.key = "c", .value = "1", .lease = LeaseId{1}}}};
    TxnRequest other;
    other.success = {{DeleteRangeRequest{.range = {"c", ""}}}};
    TxnRequest txn;
    txn.success = {{DeleteRangeRequest{.range = {"a", ""}}}, {inner}, {other}};
    EXPECT_EQ(s.store->txn(txn).error().fault(), Fault::kDuplicateKey)
        << "etcd lets it pass; here no key changes twice in a revision";
    EXPECT_EQ(s.store->revision(), 3);
    EXPECT_EQ(put(*s.store, "d", "1"), 4);
    ASSERT_TRUE(s.store->flush());
    EXPECT_EQ(dump_all(*s.store), "a=1@2 b=1@3 d=1@4");
    EXPECT_EQ(s.store->lease_time_to_live(LeaseId{1}, true, TimePoint{}).keys,
              std::vector<std::string>{"a"});
    ASSERT_EQ(s.disk.written.size(), 1U);
    EXPECT_EQ(s.disk.written[0].records.size(), 2U);
    EXPECT_EQ(sink.take(), "+b=1@3; +d=1@4");
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
