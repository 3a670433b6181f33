#include "sources/config/directory_watcher.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <cstdlib>
#include <fstream>
#include <optional>

namespace mesh::sources::config {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class Directory : public testing::Test {
  protected:
    Directory() {
        std::string pattern = (fs::temp_directory_path() / "mesh-dir-XXXXXX").string();
        path = ::mkdtemp(pattern.data());
    }
    ~Directory() override { fs::remove_all(path); }
    void write(const std::string& name, const std::string& text) const {
        std::ofstream(path / name) << text;
    }
    static std::vector<std::string> names(const DirectoryReader::Changes& changes) {
        std::vector<std::string> out;
        for (const auto& file : changes.changed) out.push_back(file.name + "=" + file.content);
        return out;
    }
    fs::path path;
    SystemClock clock;
};

using DirectoryReaderTest = Directory;
using DirectoryWatcherTest = Directory;

TEST_F(DirectoryReaderTest, ReportsEachChangeOnceInOrder) {
    DirectoryReader reader(path, clock);
    write("b", "1");
    write("a", "1");
    EXPECT_THAT(names(*reader.read()), ElementsAre("a=1", "b=1"));
    EXPECT_THAT(names(*reader.read()), IsEmpty());
    // Same length, within one tick of the file system's clock.
    write("a", "2");
    EXPECT_THAT(names(*reader.read()), ElementsAre("a=2"));
    fs::remove(path / "b");
    const auto changes = reader.read();
    EXPECT_THAT(names(*changes), IsEmpty());
    EXPECT_THAT(changes->removed, ElementsAre("b"));
    EXPECT_THAT(reader.read()->removed, IsEmpty());
}

TEST_F(DirectoryReaderTest, RewrittenWithTheSameContentIsNoChange) {
    DirectoryReader reader(path, clock);
    write("a", "1");
    ASSERT_THAT(names(*reader.read()), ElementsAre("a=1"));
    write("tmp", "1");
    fs::rename(path / "tmp", path / "a");
    EXPECT_THAT(names(*reader.read()), IsEmpty());
    reader.forget("a");
    EXPECT_THAT(names(*reader.read()), ElementsAre("a=1"));
}

TEST_F(DirectoryReaderTest, SkipsDotFilesDirectoriesAndUnwanted) {
    write(".hidden", "x");
    write("a.yaml", "x");
    write("a.txt", "x");
    fs::create_directory(path / "dir.yaml");
    ASSERT_EQ(::mkfifo((path / "pipe.yaml").c_str(), 0600), 0);
    DirectoryReader reader(path, clock, [](std::string_view n) { return n.ends_with(".yaml"); });
    EXPECT_THAT(names(*reader.read()), ElementsAre("a.yaml=x"));
}

TEST_F(DirectoryReaderTest, SwappedSymbolicLinkIsAChange) {
    // The way kubelet mounts Secrets: name → ..data/name, ..data → a directory per version.
    for (const char* version : {"..1", "..2"}) {
        fs::create_directory(path / version);
        std::ofstream(path / version / "c1") << version;
    }
    fs::create_symlink("..1", path / "..data");
    fs::create_symlink("..data/c1", path / "c1");
    DirectoryReader reader(path, clock);
    EXPECT_THAT(names(*reader.read()), ElementsAre("c1=..1"));
    fs::create_symlink("..2", path / "..tmp");
    fs::rename(path / "..tmp", path / "..data");
    EXPECT_THAT(names(*reader.read()), ElementsAre("c1=..2"));
}

TEST_F(DirectoryReaderTest, UnreadableFileIsNamedOnceAndNotRemoved) {
    DirectoryReader reader(path, clock);
    write("a", "1");
    ASSERT_THAT(names(*reader.read()), ElementsAre("a=1"));
    fs::remove(path / "a");
    fs::create_symlink("nowhere", path / "a");
    auto changes = reader.read();
    ASSERT_EQ(changes->failed.size(), 1U);
    EXPECT_THAT(changes->failed[0].error.detail(), HasSubstr((path / "a").string()));
    EXPECT_THAT(changes->removed, IsEmpty());
    EXPECT_THAT(reader.read()->failed, IsEmpty());
    fs::remove(path / "a");
    EXPECT_THAT(reader.read()->removed, ElementsAre("a"));
}

TEST_F(DirectoryReaderTest, BoundsSizeAndCount) {
    write("big", std::string(11, 'x'));
    write("small", "x");
    DirectoryReader reader(path, clock, {}, {.max_files = 2, .max_file_bytes = 10});
    auto changes = reader.read();
    EXPECT_THAT(names(*changes), ElementsAre("small=x"));
    ASSERT_EQ(changes->failed.size(), 1U);
    EXPECT_EQ(changes->failed[0].error.code(), Errc::kCapacity);
    write("third", "x");
    EXPECT_EQ(reader.read().error().code(), Errc::kCapacity);
}

TEST_F(DirectoryReaderTest, VanishedDirectoryRemovesNothing) {
    write("a", "1");
    DirectoryReader reader(path, clock);
    ASSERT_TRUE(reader.read());
    fs::rename(path, path.string() + "-away");
    EXPECT_EQ(reader.read().error().code(), Errc::kNotFound);
    fs::rename(path.string() + "-away", path);
    const auto changes = reader.read();
    EXPECT_THAT(changes->removed, IsEmpty());
    EXPECT_THAT(names(*changes), IsEmpty());
}

/// Runs the loop until async_changed() has completed.
Result<void> next_change(asio::io_context& context, DirectoryWatcher& watcher) {
    std::optional<Result<void>> done;
    asio::co_spawn(context, watcher.async_changed(),
                   [&](std::exception_ptr, Result<void> result) { done = std::move(result); });
    context.restart();
    while (!done) context.run_one();
    return *done;
}

TEST_F(DirectoryWatcherTest, CompletesOnCreateChangeRenameAndRemove) {
    asio::io_context context(1);
    // A re-scan must not be what completes it.
    DirectoryWatcher watcher(context.get_executor(), path, {}, {.rescan = std::chrono::hours(1)});
    ASSERT_TRUE(next_change(context, watcher));
    write("a", "1");
    EXPECT_TRUE(next_change(context, watcher));
    write("a", "2");
    EXPECT_TRUE(next_change(context, watcher));
    fs::rename(path / "a", path / "b");
    EXPECT_TRUE(next_change(context, watcher));
    fs::remove(path / "b");
    EXPECT_TRUE(next_change(context, watcher));
}

TEST_F(DirectoryWatcherTest, FollowsADirectoryThatComesLaterGoesAndComesBack) {
    asio::io_context context(1);
    const fs::path later = path / "later";
    DirectoryWatcher watcher(context.get_executor(), later, {}, {.rescan = std::chrono::hours(1)});
    ASSERT_TRUE(next_change(context, watcher));
    fs::create_directory(later);
    EXPECT_TRUE(next_change(context, watcher));
    fs::remove(later);
    EXPECT_TRUE(next_change(context, watcher));
    fs::create_directory(later);
    EXPECT_TRUE(next_change(context, watcher));
    std::ofstream(later / "a") << "1";
    EXPECT_TRUE(next_change(context, watcher));
    fs::rename(later, path / "moved");
    EXPECT_TRUE(next_change(context, watcher));
    fs::create_directory(later);
    EXPECT_TRUE(next_change(context, watcher));
    std::ofstream(later / "b") << "1";
    EXPECT_TRUE(next_change(context, watcher));
}

TEST_F(DirectoryWatcherTest, RescansWithoutEventsAndWhenPoked) {
    asio::io_context context(1);
    DirectoryWatcher rescanning(context.get_executor(), path, {},
                                {.rescan = std::chrono::milliseconds(1)});
    ASSERT_TRUE(next_change(context, rescanning));
    EXPECT_TRUE(next_change(context, rescanning));
    DirectoryWatcher poked(context.get_executor(), path, {}, {.rescan = std::chrono::hours(1)});
    ASSERT_TRUE(next_change(context, poked));
    poked.poke();
    EXPECT_TRUE(next_change(context, poked));
}

TEST_F(DirectoryWatcherTest, CancellationEndsTheWait) {
    asio::io_context context(1);
    DirectoryWatcher watcher(context.get_executor(), path, {}, {.rescan = std::chrono::hours(1)});
    ASSERT_TRUE(next_change(context, watcher));
    asio::cancellation_signal signal;
    std::optional<Errc> code;
    asio::co_spawn(context, watcher.async_changed(),
                   asio::bind_cancellation_slot(
                       signal.slot(), [&](std::exception_ptr failure, Result<void> result) {
                           code = failure || result ? Errc::kCancelled : result.error().code();
                       }));
    context.restart();
    context.poll();
    ASSERT_FALSE(code);
    signal.emit(asio::cancellation_type::terminal);
    while (!code) context.run_one();
    EXPECT_EQ(*code, Errc::kCancelled);
}

}  // namespace
}  // namespace mesh::sources::config
