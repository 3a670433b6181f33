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
#include <sstream>
#include <string>
#include <vector>

#include "base/log_fields.hpp"
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

TEST(LogSinkTest, FieldsAreMembersOfJsonLines) {
    testing::internal::CaptureStderr();
    const Logger log = make_logger("main", {LogLevel::kInfo, LogFormat::kJson});
    {
        const LogFields outer({{"client", "a"}});
        const LogFields fields({{"client", "remote-\"x\""}, {"revision", "7"}});
        log.info("with");
    }
    log.info("without");
    std::istringstream lines(testing::internal::GetCapturedStderr());
    std::string line;
    std::getline(lines, line);
    const auto with = boost::json::parse(line).as_object();
    EXPECT_EQ(with.at("client").as_string(), "remote-\"x\"");
    EXPECT_EQ(with.at("revision").as_string(), "7");
    std::getline(lines, line);
    EXPECT_FALSE(boost::json::parse(line).as_object().contains("client"));
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

/// What systemd would be: the socket that NOTIFY_SOCKET names, while this object is there.
class NotifySocket {
  public:
    NotifySocket() : directory_(::mkdtemp(pattern_.data())) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::strcpy(address.sun_path, path().c_str());
        EXPECT_EQ(::bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
        ::setenv("NOTIFY_SOCKET", path().c_str(), 1);
    }
    ~NotifySocket() {
        ::unsetenv("NOTIFY_SOCKET");
        ::close(fd_);
        ::unlink(path().c_str());
        ::rmdir(directory_.c_str());
    }
    NotifySocket(const NotifySocket&) = delete;
    NotifySocket& operator=(const NotifySocket&) = delete;

    [[nodiscard]] std::vector<std::string> told() const {
        std::vector<std::string> all;
        char buffer[100];
        for (ssize_t got = 0; (got = ::recv(fd_, buffer, sizeof(buffer), 0)) > 0;) {
            all.emplace_back(buffer, static_cast<std::size_t>(got));
        }
        return all;
    }

  private:
    [[nodiscard]] std::string path() const { return directory_ + "/n"; }
    std::string pattern_ = "/tmp/mesh-notify-XXXXXX";
    std::string directory_;
    int fd_ = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
};

TEST(DaemonTest, TellsSystemdOnceThatItIsReady) {
    testing::internal::CaptureStderr();
    const NotifySocket systemd;
    Daemon daemon("mesh-test", {});
    daemon.set_ready();
    daemon.set_ready();
    daemon.request_stop();
    EXPECT_THAT(systemd.told(), testing::ElementsAre("READY=1", "STOPPING=1"));
    (void)testing::internal::GetCapturedStderr();
}

TEST(DaemonTest, TellsSystemdOfReloads) {
    testing::internal::CaptureStderr();
    const NotifySocket systemd;
    Daemon daemon("mesh-test", {});
    daemon.on_reload([&] { asio::post(daemon.executor(), [&] { daemon.request_stop(); }); });
    const int code = daemon.run([&]() -> asio::awaitable<Result<void>> {
        daemon.set_ready();
        ::kill(::getpid(), SIGHUP);
        co_await daemon.stop_requested();
        co_return Result<void>{};
    });
    EXPECT_EQ(code, kExitOk);
    EXPECT_THAT(systemd.told(),
                testing::ElementsAre("READY=1", testing::StartsWith("RELOADING=1\nMONOTONIC_USEC="),
                                     "READY=1", "STOPPING=1"));
    (void)testing::internal::GetCapturedStderr();
}

TEST(CommandsTest, TheCommandLineIsDescribed) {
    CLI::App app{"about", "mesh-test"};
    std::string text;
    bool on = false;
    app.add_option("-o,--output", text, "how")->check(CLI::IsMember({"table", "json"}))->required();
    app.add_option("--secret", text, "not shown")->group("");
    CLI::App* get = app.add_subcommand("get", "gets");
    get->add_flag("--all", on, "everything");
    get->add_option("NAME", text, "which");
    testing::internal::CaptureStdout();
    EXPECT_EQ(parse(app, {"--describe"}), kExitOk);
    const auto all = boost::json::parse(testing::internal::GetCapturedStdout()).as_object();
    const auto& flags = all.at("flags").as_array();
    ASSERT_EQ(flags.size(), 2U) << "--help and --output";
    EXPECT_EQ(flags.at(1).at("names"), (boost::json::value{"-o", "--output"}));
    EXPECT_EQ(flags.at(1).at("value"), "TEXT:{table,json}");
    EXPECT_EQ(flags.at(1).at("required"), true);
    EXPECT_EQ(flags.at(0).at("value"), "") << "--help takes none";
    const auto& command = all.at("commands").at(0);
    EXPECT_EQ(command.at("name"), "get");
    EXPECT_EQ(command.at("flags").at(1).at("names").at(0), "--all");
    EXPECT_EQ(command.at("positionals").at(0).at("name"), "NAME");
}

}  // namespace
}  // namespace mesh::daemon
