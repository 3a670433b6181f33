#include "datapath/wireguard/uapi_socket.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <thread>

namespace mesh::datapath {
namespace {

using testing::HasSubstr;

// Listens like wireguard-go and answers one connection.
class Listener {
  public:
    Listener() {
        std::string name = (std::filesystem::temp_directory_path() / "wguapi-XXXXXX").string();
        EXPECT_NE(::mkdtemp(name.data()), nullptr);
        directory_ = name;
        sockaddr_un at{};
        at.sun_family = AF_UNIX;
        std::strncpy(at.sun_path, path().c_str(), sizeof at.sun_path - 1);
        fd_ = Fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        EXPECT_EQ(::bind(fd_.get(), reinterpret_cast<sockaddr*>(&at), sizeof at), 0);
        EXPECT_EQ(::listen(fd_.get(), 4), 0);
    }
    Listener(const Listener&) = delete;
    Listener& operator=(const Listener&) = delete;
    ~Listener() {
        if (thread_.joinable()) thread_.join();
        std::filesystem::remove_all(directory_);
    }
    [[nodiscard]] std::string path() const { return directory_ + "/wg0.sock"; }
    void close() { fd_ = Fd(); }
    // Reads a request to its empty line, then sends the parts.
    void answer(std::vector<std::string> parts) {
        thread_ = std::thread([this, parts = std::move(parts)] {
            const Fd peer(::accept4(fd_.get(), nullptr, nullptr, SOCK_CLOEXEC));
            char byte = 0;
            while (!request_.ends_with("\n\n") && ::read(peer.get(), &byte, 1) == 1) {
                request_ += byte;
            }
            for (const std::string& part : parts) {
                (void)!::write(peer.get(), part.data(), part.size());
            }
        });
    }
    const std::string& request() {
        thread_.join();
        return request_;
    }

  private:
    std::string directory_, request_;
    Fd fd_;
    std::thread thread_;
};

TEST(UapiSocket, BringsAnAnswerThatComesInParts) {
    Listener listener;
    listener.answer({"listen_port=1\n", "errno=", "0\n", "\n"});
    EXPECT_EQ(uapi::exchange(listener.path(), "get=1\n\n").value(), "listen_port=1\nerrno=0\n\n");
    EXPECT_EQ(listener.request(), "get=1\n\n");
}

TEST(UapiSocket, AnAnswerCutShortIsAnError) {
    Listener listener;
    listener.answer({"listen_port=1\nerr"});
    EXPECT_EQ(uapi::exchange(listener.path(), "get=1\n\n").error().code(), Errc::kUnavailable);
}

TEST(UapiSocket, NobodyListens) {
    Listener listener;
    listener.close();  // the file stays, as after a crash
    EXPECT_TRUE(std::filesystem::exists(listener.path()));
    for (const std::string& path : {listener.path(), listener.path() + "x"}) {
        const auto refused = uapi::exchange(path, "get=1\n\n");
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().code(), Errc::kNotFound);
        EXPECT_THAT(refused.error().detail(), HasSubstr(path));
        EXPECT_EQ(uapi::listener(path).error().code(), Errc::kNotFound);
    }
    const std::string longest(200, 'x');
    EXPECT_EQ(uapi::exchange(longest, "get=1\n\n").error().code(), Errc::kInvalidArgument);
}

TEST(UapiSocket, TellsWhoListens) {
    const Listener listener;
    EXPECT_TRUE(uapi::listener(listener.path()));
}

}  // namespace
}  // namespace mesh::datapath
