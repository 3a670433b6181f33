#include "sources/config/remotes_directory.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace asio = boost::asio;
namespace fs = std::filesystem;

namespace {

using mesh::Logger;
using mesh::LogLevel;
using mesh::sources::config::RemoteEvent;
using mesh::sources::config::RemotesDirectory;
using mesh::sources::config::RemotesScan;

std::string yaml(const std::string& host) {
    return "endpoints:\n- https://" + host + ":2379\n";
}

class RemotesTest : public testing::Test {
  protected:
    RemotesTest() {
        std::string name = (fs::temp_directory_path() / "mesh-remotes-XXXXXX").string();
        root_ = ::mkdtemp(name.data());
        dir_ = root_ / "clusters";
        fs::create_directory(dir_);
    }
    ~RemotesTest() override { fs::remove_all(root_); }

    static void write(const fs::path& path, const std::string& text) {
        std::ofstream(path, std::ios::trunc) << text;
    }
    Logger logger() {
        return {"config", [this](LogLevel, std::string_view, std::string_view text) {
                    lines_.emplace_back(text);
                }};
    }
    static std::vector<std::string> names(const std::vector<RemoteEvent>& events) {
        std::vector<std::string> out;
        for (const auto& e : events) {
            out.push_back(std::string("+~-").substr(static_cast<std::size_t>(e.kind), 1) +
                          e.cluster);
        }
        return out;
    }
    [[nodiscard]] std::size_t lines_with(const std::string& part) const {
        std::size_t count = 0;
        for (const auto& line : lines_) count += line.find(part) != std::string::npos ? 1 : 0;
        return count;
    }

    using Names = std::vector<std::string>;
    mesh::SystemClock clock_;
    fs::path root_, dir_;
    std::vector<std::string> lines_;
};

TEST_F(RemotesTest, OnlyFilesWithEndpointsAreRemotes) {
    write(dir_ / "c1", yaml("a"));
    write(dir_ / "home", yaml("b"));
    write(dir_ / "common-etcd-client.crt", "-----BEGIN CERTIFICATE-----");
    write(dir_ / "C_2", yaml("c"));
    fs::create_directory(dir_ / "c3");
    RemotesScan scan(dir_, "home", clock_, logger());
    EXPECT_EQ(names(scan.scan().events), Names{"+c1"});
    EXPECT_EQ(lines_with("\"C_2\""), 1U);
    EXPECT_TRUE(scan.scan().events.empty());
    EXPECT_EQ(lines_with("\"C_2\""), 1U) << "one complaint for one content";
}

TEST_F(RemotesTest, SameBytesAreNoChange) {
    write(dir_ / "c1", yaml("a"));
    RemotesScan scan(dir_, "", clock_, logger());
    EXPECT_EQ(names(scan.scan().events), Names{"+c1"});
    write(dir_ / "c1", yaml("a"));
    EXPECT_TRUE(scan.scan().events.empty());
    write(dir_ / "c1", yaml("b"));
    const auto changed = scan.scan().events;
    EXPECT_EQ(names(changed), Names{"~c1"});
    EXPECT_EQ(changed.at(0).config.etcd.endpoints.at(0), "https://b:2379");
}

TEST_F(RemotesTest, RemovedOnlyWhenMissingTwice) {
    write(dir_ / "c1", yaml("a"));
    write(dir_ / "c2", yaml("a"));
    RemotesScan scan(dir_, "", clock_, logger());
    EXPECT_EQ(names(scan.scan().events), (Names{"+c1", "+c2"}));
    fs::remove(dir_ / "c1");
    write(dir_ / "c2", "");
    auto outcome = scan.scan();
    EXPECT_TRUE(outcome.events.empty());
    EXPECT_TRUE(outcome.look_again);
    write(dir_ / "c1", yaml("a"));
    EXPECT_EQ(names(scan.scan().events), Names{"-c2"}) << "c1 came back, unchanged";
}

TEST_F(RemotesTest, ALinkWithoutTargetIsAMissingFile) {
    write(root_ / "c1", yaml("a"));
    fs::create_symlink(root_ / "c1", dir_ / "c1");
    RemotesScan scan(dir_, "", clock_, logger());
    EXPECT_EQ(names(scan.scan().events), Names{"+c1"});
    fs::rename(root_ / "c1", root_ / "away");
    EXPECT_TRUE(scan.scan().events.empty());
    fs::rename(root_ / "away", root_ / "c1");
    EXPECT_TRUE(scan.scan().events.empty()) << "back in time";
    fs::rename(root_ / "c1", root_ / "away");
    EXPECT_TRUE(scan.scan().events.empty());
    EXPECT_EQ(names(scan.scan().events), Names{"-c1"});
    fs::rename(root_ / "away", root_ / "c1");
    EXPECT_EQ(names(scan.scan().events), Names{"+c1"});
}

TEST_F(RemotesTest, ABadFileKeepsTheLastGoodConfiguration) {
    write(dir_ / "c1", yaml("a"));
    RemotesScan scan(dir_, "", clock_, logger());
    static_cast<void>(scan.scan());
    write(dir_ / "c1", "endpoints: 7\n");
    EXPECT_TRUE(scan.scan().events.empty());
    EXPECT_TRUE(scan.scan().events.empty());
    EXPECT_EQ(lines_with("c1:1: endpoints: expected a list of endpoints; the last good"), 1U);
    EXPECT_EQ(scan.errors().count("c1"), 1U);
    write(dir_ / "c1", yaml("a"));
    EXPECT_TRUE(scan.scan().events.empty());
    EXPECT_TRUE(scan.errors().empty());
}

TEST_F(RemotesTest, AMisspeltFieldIsABadFileNotAMissingOne) {
    write(dir_ / "c1", yaml("a"));
    RemotesScan scan(dir_, "", clock_, logger());
    static_cast<void>(scan.scan());
    write(dir_ / "c1", "endpoint:\n- https://b:2379\n");
    EXPECT_TRUE(scan.scan().events.empty());
    EXPECT_TRUE(scan.scan().events.empty());
    EXPECT_EQ(lines_with("c1: endpoints: expected at least one"), 1U);
    EXPECT_EQ(scan.errors().count("c1"), 1U);
    write(dir_ / "c1", " \n");
    EXPECT_TRUE(scan.scan().events.empty());
    EXPECT_EQ(names(scan.scan().events), Names{"-c1"});
}

TEST_F(RemotesTest, AMisspeltFieldIsABadFileFromTheStart) {
    write(dir_ / "c1", "endpoint:\n- https://b:2379\n");
    write(dir_ / "c2", "key-file: /k\ncert-file: /c\n");
    write(dir_ / "c2.etcd-client.crt", "endpoint of a chain");
    write(dir_ / "notes", "nothing of that kind");
    RemotesScan scan(dir_, "", clock_, logger());
    EXPECT_TRUE(scan.scan().events.empty());
    EXPECT_EQ(scan.errors().size(), 2U);
    EXPECT_EQ(scan.errors().count("c1"), 1U);
    EXPECT_EQ(scan.errors().count("c2"), 1U);
    fs::remove(dir_ / "c2");
    write(dir_ / "c1", yaml("a"));
    EXPECT_EQ(names(scan.scan().events), Names{"+c1"});
    EXPECT_TRUE(scan.errors().empty());
}

TEST_F(RemotesTest, ADirectoryThatIsAwayChangesNothing) {
    write(dir_ / "c1", yaml("a"));
    RemotesScan scan(dir_, "", clock_, logger());
    static_cast<void>(scan.scan());
    fs::rename(dir_, root_ / "elsewhere");
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(scan.scan().events.empty());
    EXPECT_EQ(lines_with("known remotes stay"), 1U);
    EXPECT_EQ(scan.errors().count(""), 1U);
    fs::rename(root_ / "elsewhere", dir_);
    EXPECT_TRUE(scan.scan().events.empty());
    EXPECT_TRUE(scan.errors().empty());
}

/// Runs the watcher for real and waits for its events.
class WatchedRemotesTest : public RemotesTest {
  protected:
    void start() {
        RemotesDirectory::Options options;
        options.directory = dir_;
        options.settle = std::chrono::milliseconds(20);
        watcher_.emplace(
            io_.get_executor(), options, clock_, logger(),
            [this](const RemoteEvent& e) { events_.push_back(e); }, [this] { ++errors_told_; });
        watcher_->start();
    }
    void TearDown() override {
        if (!watcher_) return;
        asio::co_spawn(io_, watcher_->stop(), [](const std::exception_ptr&) {});
        io_.restart();
        io_.run();
    }
    /// Turns the loop until `count` events have come; the deadline only bounds a failing test.
    Names wait_for(std::size_t count) {
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
        io_.restart();
        while (events_.size() < count && std::chrono::steady_clock::now() < deadline) {
            io_.run_one_for(std::chrono::milliseconds(50));
        }
        auto got = names(events_);
        events_.clear();
        return got;
    }

    asio::io_context io_;
    std::optional<RemotesDirectory> watcher_;
    std::vector<RemoteEvent> events_;
    int errors_told_ = 0;
};

TEST_F(WatchedRemotesTest, TellsWhenAFileBreaksAndWhenItIsGone) {
    write(dir_ / "c1", yaml("a"));
    start();
    EXPECT_EQ(wait_for(1), Names{"+c1"});
    EXPECT_EQ(errors_told_, 0);
    const auto wait_for_errors = [this](std::size_t count) {
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
        io_.restart();
        while (watcher_->errors().size() != count && std::chrono::steady_clock::now() < deadline) {
            io_.run_one_for(std::chrono::milliseconds(50));
        }
    };
    write(dir_ / "c2", "endpoints: 7\n");
    wait_for_errors(1);
    EXPECT_EQ(errors_told_, 1);
    fs::remove(dir_ / "c2");
    wait_for_errors(0);
    EXPECT_EQ(errors_told_, 2);
    EXPECT_TRUE(events_.empty());
}

TEST_F(WatchedRemotesTest, SeesAddedChangedRemoved) {
    write(dir_ / "c1", yaml("a"));
    start();
    EXPECT_EQ(wait_for(1), Names{"+c1"});
    write(dir_ / "c2", yaml("a"));
    EXPECT_EQ(wait_for(1), Names{"+c2"});
    write(dir_ / "c1", yaml("b"));
    EXPECT_EQ(wait_for(1), Names{"~c1"});
    write(dir_ / "tmp", "x");
    write(root_ / "new", yaml("c"));
    fs::rename(root_ / "new", dir_ / "c1");
    EXPECT_EQ(wait_for(1), Names{"~c1"});
    fs::remove(dir_ / "c1");
    EXPECT_EQ(wait_for(1), Names{"-c1"});
}

// The way of a projected Secret: c1 -> ..data/c1, ..data -> ..<time>, swapped by one rename.
TEST_F(WatchedRemotesTest, SeesTheSwapOfAProjectedVolume) {
    const auto publish = [this](const std::string& stamp, const std::vector<std::string>& files,
                                const std::string& host) {
        fs::create_directory(dir_ / stamp);
        for (const auto& f : files) write(dir_ / stamp / f, yaml(host));
        fs::create_directory_symlink(stamp, dir_ / "..data_tmp");
        fs::rename(dir_ / "..data_tmp", dir_ / "..data");
    };
    publish("..one", {"c1", "c2"}, "a");
    fs::create_symlink("..data/c1", dir_ / "c1");
    fs::create_symlink("..data/c2", dir_ / "c2");
    start();
    EXPECT_EQ(wait_for(2), (Names{"+c1", "+c2"}));
    publish("..two", {"c1", "c2"}, "b");
    fs::remove_all(dir_ / "..one");
    EXPECT_EQ(wait_for(2), (Names{"~c1", "~c2"}));
    publish("..three", {"c1"}, "b");
    EXPECT_EQ(wait_for(1), Names{"-c2"});
}

TEST_F(WatchedRemotesTest, SeesTheTargetOfALinkChange) {
    fs::create_directory(root_ / "far");
    write(root_ / "far" / "c1", yaml("a"));
    fs::create_symlink(root_ / "far" / "c1", dir_ / "c1");
    start();
    EXPECT_EQ(wait_for(1), Names{"+c1"});
    write(root_ / "far" / "c1", yaml("b"));
    EXPECT_EQ(wait_for(1), Names{"~c1"});
}

TEST_F(WatchedRemotesTest, SeesADirectoryThatAppearsLater) {
    fs::remove(dir_);
    start();
    EXPECT_EQ(lines_with("known remotes stay"), 1U);
    fs::create_directory(dir_);
    write(dir_ / "c1", yaml("a"));
    EXPECT_EQ(wait_for(1), Names{"+c1"});
    write(dir_ / "c1", yaml("b"));
    EXPECT_EQ(wait_for(1), Names{"~c1"});
}

}  // namespace
