#include "attach/delegate.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

namespace mesh::attach {
namespace {

using ::testing::HasSubstr;

class Delegate : public ::testing::Test {
  protected:
    void SetUp() override {
        std::string name = (std::filesystem::temp_directory_path() / "delegate.XXXXXX").string();
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder = name;
    }
    void TearDown() override { std::filesystem::remove_all(folder); }

    void plugin(const std::string& name, const std::string& script) {
        const std::string path = folder + "/" + name;
        std::ofstream(path) << "#!/bin/sh\n" << script;
        std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    }

    CniResult<std::string> call(std::string_view type, std::string_view config = "{}") {
        return call_plugin({type, "DEL", path(), config}, {"CNI_COMMAND=ADD", "A=b"}, clock);
    }
    std::string path() { return "/nowhere::" + folder; }

    std::string folder;
    SystemClock clock;
};

TEST_F(Delegate, GetsTheConfigAndTheEnvironmentWithItsOwnCommand) {
    plugin("good", "cat; echo \"$CNI_COMMAND $A\"\n");
    const auto answer = call("good", "{\"name\":\"m\"}");
    ASSERT_TRUE(answer) << answer.error().message;
    EXPECT_EQ(*answer, "{\"name\":\"m\"}DEL b\n");
}

TEST_F(Delegate, ALongInputAndALongOutputDoNotMeet) {
    plugin("early", "head -c 300000 /dev/zero | tr '\\0' x; cat >/dev/null\n");
    const auto answer = call("early", std::string(600'000, ' '));
    ASSERT_TRUE(answer) << answer.error().message;
    EXPECT_EQ(answer->size(), 300'000U);
}

TEST_F(Delegate, ItsOwnErrorIsHandedOn) {
    plugin("bad", "echo '{\"cniVersion\":\"1.0.0\",\"code\":11,\"msg\":\"busy\"}'; exit 1\n");
    const auto answer = call("bad");
    ASSERT_FALSE(answer);
    EXPECT_EQ(answer.error().code, 11U);
    EXPECT_EQ(answer.error().message, "plugin bad, DEL: busy");
}

TEST_F(Delegate, AnEndWithoutAnErrorIsTold) {
    plugin("mute", "echo oh; exit 3\n");
    EXPECT_THAT(call("mute").error().message, HasSubstr("exit code 3: oh"));
    plugin("killed", "kill -9 $$\n");
    EXPECT_THAT(call("killed").error().message, HasSubstr("exit code 137"));
}

TEST_F(Delegate, APluginThatIsNotThereNamesThePath) {
    const auto answer = call("none");
    ASSERT_FALSE(answer);
    EXPECT_EQ(answer.error().code, 4U);
    EXPECT_THAT(answer.error().message, HasSubstr(path() + "\": expected a folder"));
}

TEST_F(Delegate, AFolderIsNoPlugin) {
    std::filesystem::create_directory(folder + "/sub");
    EXPECT_EQ(call("sub").error().code, 4U);
}

TEST_F(Delegate, WhatCannotBeExecutedIsToldAsSuch) {
    std::ofstream(folder + "/text") << "no program";
    std::filesystem::permissions(folder + "/text", std::filesystem::perms::owner_all);
    EXPECT_THAT(call("text").error().message, HasSubstr("execute " + folder + "/text"));
}

TEST_F(Delegate, AProgramThatHangsIsKilledAtTheDeadline) {
    // A child that keeps standard output does not keep us.
    plugin("parent", "sleep 60 2>/dev/null & echo done\n");
    const auto end = run_program(folder + "/parent", {"PATH=/usr/bin:/bin"}, "",
                                 std::chrono::seconds(30), clock);
    ASSERT_TRUE(end) << end.error().message();
    EXPECT_EQ(end->output, "done\n");
    plugin("hung", "exec sleep 60\n");
    const auto late =
        run_program(folder + "/hung", {"PATH=/usr/bin:/bin"}, "", std::chrono::seconds(0), clock);
    ASSERT_FALSE(late);
    EXPECT_EQ(late.error().code(), Errc::kTimeout);
}

TEST_F(Delegate, TooMuchOutputIsRefused) {
    plugin("flood", "exec cat /dev/zero\n");
    EXPECT_THAT(call("flood").error().message, HasSubstr("says more than"));
}

}  // namespace
}  // namespace mesh::attach
