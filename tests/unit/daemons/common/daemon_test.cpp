#include "common/daemon.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <boost/asio/post.hpp>
#include <boost/json/parse.hpp>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "common/flags.hpp"
#include "common/log_sink.hpp"

namespace mesh::daemon {
namespace {

namespace asio = boost::asio;
using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::MatchesRegex;

std::optional<int> parse(CLI::App& app, std::vector<const char*> arguments) {
    arguments.insert(arguments.begin(), "mesh-test");
    return parse_command_line(app, static_cast<int>(arguments.size()), arguments.data());
}

class FlagsTest : public testing::Test {
  protected:
    FlagsTest() { add_common_flags(app, flags, "mesh-test --number 1"); }
    CLI::App app{"about", "mesh-test"};
    CommonFlags flags;
};

TEST_F(FlagsTest, LevelAndFormat) {
    EXPECT_EQ(parse(app, {"--log-level", "warn", "--log-format", "json"}), std::nullopt);
    EXPECT_EQ(flags.log_level, LogLevel::kWarn);
    EXPECT_EQ(flags.log_format, LogFormat::kJson);
}

TEST_F(FlagsTest, HelpHasExamplesAndEndsWell) {
    testing::internal::CaptureStdout();
    EXPECT_EQ(parse(app, {"--help"}), kExitOk);
    const std::string text = testing::internal::GetCapturedStdout();
    EXPECT_THAT(text, HasSubstr("Examples:\nmesh-test --number 1"));
    EXPECT_THAT(text, HasSubstr("debug|info|warn|error"));
}

TEST_F(FlagsTest, VersionNamesTheProgram) {
    testing::internal::CaptureStdout();
    EXPECT_EQ(parse(app, {"--version"}), kExitOk);
    EXPECT_THAT(testing::internal::GetCapturedStdout(), MatchesRegex("mesh-test [0-9.]+\n"));
}

TEST_F(FlagsTest, BadFlagsAreNamed) {
    for (const std::vector<const char*>& bad :
         {std::vector<const char*>{"--log-level", "loud"}, std::vector<const char*>{"--what"}}) {
        testing::internal::CaptureStderr();
        EXPECT_EQ(parse(app, bad), kExitUsage);
        EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr(bad.back()));
    }
}

TEST(CommandsTest, AnUnknownCommandIsNamed) {
    const auto complaint = [](std::vector<const char*> arguments) {
        CLI::App app{"about", "mesh-test"};
        app.require_subcommand(1);
        CLI::App* one = app.add_subcommand("one", "");
        one->require_subcommand(1);
        one->add_subcommand("two", "");
        testing::internal::CaptureStderr();
        EXPECT_EQ(parse(app, std::move(arguments)), kExitUsage);
        return testing::internal::GetCapturedStderr();
    };
    EXPECT_THAT(complaint({"foo"}), HasSubstr("foo"));
    EXPECT_THAT(complaint({"one", "foo"}), HasSubstr("foo"));
    EXPECT_THAT(complaint({"one"}), HasSubstr("required"));
    EXPECT_THAT(complaint({}), HasSubstr("required"));
}

TEST(LogSinkTest, TextLinesCannotBeForged) {
    testing::internal::CaptureStderr();
    const Logger log = make_logger("main", {});
    log.named("remote").warn("key {}", "a\n2026 error [main] forged\x1b[2J");
    log.debug("below the level");
    const std::string text = testing::internal::GetCapturedStderr();
    EXPECT_THAT(text, EndsWith("[remote] key a\\n2026 error [main] forged\\x1b[2J\n"));
    EXPECT_THAT(text, MatchesRegex("[0-9-]+T[0-9:.]+Z warn.*"));
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
}

TEST(LogSinkTest, JsonLinesParse) {
    testing::internal::CaptureStderr();
    make_logger("main", {LogLevel::kInfo, LogFormat::kJson}).error("a \"b\" \\ \n \x01 {}", "{}");
    const auto line = boost::json::parse(testing::internal::GetCapturedStderr()).as_object();
    EXPECT_EQ(line.at("message").as_string(), "a \"b\" \\ \n \x01 {}");
    EXPECT_EQ(line.at("subsystem").as_string(), "main");
    EXPECT_EQ(line.at("level").as_string(), "error");
    EXPECT_TRUE(line.contains("time"));
}

TEST(DaemonTest, ExitCodeFollowsTheResult) {
    testing::internal::CaptureStderr();
    const auto run = [](Result<void> result) {
        Daemon daemon("mesh-test", {});
        return daemon.run([result]() -> asio::awaitable<Result<void>> { co_return result; });
    };
    EXPECT_EQ(run(Result<void>{}), kExitOk);
    EXPECT_EQ(run(invalid_argument("x.yaml:1: bad")), kExitUsage);
    EXPECT_EQ(run(unavailable("away")), kExitFailure);
    EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("x.yaml:1: bad"));
}

TEST(DaemonTest, SignalsStopAndReload) {
    testing::internal::CaptureStderr();
    Daemon daemon("mesh-test", {});
    int reloads = 0;
    daemon.on_reload([&] {
        ++reloads;
        ::kill(::getpid(), SIGTERM);
    });
    const int code = daemon.run([&]() -> asio::awaitable<Result<void>> {
        ::kill(::getpid(), SIGHUP);
        co_await daemon.stop_requested();
        co_return Result<void>{};
    });
    EXPECT_EQ(code, kExitOk);
    EXPECT_EQ(reloads, 1);
    EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("SIGTERM: stopping"));
}

TEST(DaemonTest, TellsSystemdOnceThatItIsReady) {
    testing::internal::CaptureStderr();
    std::string pattern = "/tmp/mesh-notify-XXXXXX";
    const std::string directory = ::mkdtemp(pattern.data());
    const std::string path = directory + "/n";
    const int fd = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path.c_str());
    ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    ::setenv("NOTIFY_SOCKET", path.c_str(), 1);
    {
        Daemon daemon("mesh-test", {});
        daemon.set_ready();
        daemon.set_ready();
        daemon.request_stop();
    }
    ::unsetenv("NOTIFY_SOCKET");
    std::vector<std::string> told;
    char buffer[100];
    for (ssize_t got = 0; (got = ::recv(fd, buffer, sizeof(buffer), 0)) > 0;) {
        told.emplace_back(buffer, static_cast<std::size_t>(got));
    }
    EXPECT_THAT(told, testing::ElementsAre("READY=1", "STOPPING=1"));
    ::close(fd);
    ::unlink(path.c_str());
    ::rmdir(directory.c_str());
    (void)testing::internal::GetCapturedStderr();
}

}  // namespace
}  // namespace mesh::daemon
