#include "serve/l7/outbox.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <string>
#include <utility>

namespace mesh::serve::l7 {
namespace {

struct Pair {
    std::array<int, 2> fds{};
    Pair() { EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds.data()), 0); }
    ~Pair() {
        for (const int fd : fds) ::close(fd);
    }
    std::string read() const {
        std::string out;
        std::array<char, 4096> bytes{};
        for (ssize_t n = 0; (n = ::read(fds[1], bytes.data(), bytes.size())) > 0;)
            out.append(bytes.data(), static_cast<std::size_t>(n));
        return out;
    }
};

TEST(Outbox, KeepsTheOrderOfViewsAndCopies) {
    Pair pair;
    Outbox box;
    const std::string source = "abcdef";
    box.add_view(std::string_view(source).substr(0, 2));
    box.add_view(std::string_view(source).substr(2, 2));
    box.add_copy("-");
    box.add_view(std::string_view(source).substr(4));
    EXPECT_EQ(box.size(), 7U);
    EXPECT_EQ(box.flush(pair.fds[0]), Outbox::Flush::kAll);
    EXPECT_TRUE(box.empty());
    EXPECT_EQ(pair.read(), "abcd-ef");
}

TEST(Outbox, ManyViews) {
    Pair pair;
    Outbox box;
    std::string expected;
    const std::string source(200, 'x');
    for (std::size_t i = 0; i < 100; ++i) {
        box.add_view(std::string_view(source).substr(2 * i, 1));  // not adjacent
        expected.push_back('x');
    }
    EXPECT_EQ(box.flush(pair.fds[0]), Outbox::Flush::kAll);
    EXPECT_EQ(pair.read(), expected);
}

TEST(Outbox, WhatTheSocketDoesNotTakeIsKept) {
    Pair pair;
    Outbox box;
    std::string expected;
    for (int i = 0; i < 200; ++i) {
        std::string part(10'000, static_cast<char>('a' + i % 26));
        expected.append(part);
        box.add_view(part);
        const auto flushed = box.flush(pair.fds[0]);
        ASSERT_NE(flushed, Outbox::Flush::kBroken);
        part.assign(part.size(), '!');  // the view is gone
    }
    EXPECT_FALSE(box.empty());
    std::string got;
    while (!box.empty()) {
        got.append(pair.read());
        ASSERT_NE(box.flush(pair.fds[0]), Outbox::Flush::kBroken);
    }
    got.append(pair.read());
    EXPECT_TRUE(got == expected);
    EXPECT_EQ(box.sent(), expected.size());
}

TEST(Outbox, Rewinds) {
    Outbox box;
    box.add_copy("abc");
    const std::string source = "defghi";
    box.add_view(std::string_view(source).substr(0, 3));
    const auto position = box.position();
    box.add_view(std::string_view(source).substr(4));
    box.add_view(std::string_view(source).substr(0, 1));
    EXPECT_TRUE(box.rewind(position));
    std::string out;
    box.take_all(out);
    EXPECT_EQ(out, "abcdef");
    box.add_copy("xyz");
    EXPECT_FALSE(box.rewind(position - 1));
    EXPECT_TRUE(box.empty());
}

TEST(Outbox, BrokenSockets) {
    Pair pair;
    ::close(std::exchange(pair.fds[1], -1));
    Outbox box;
    box.add_view("abc");
    EXPECT_EQ(box.flush(pair.fds[0]), Outbox::Flush::kBroken);
}

}  // namespace
}  // namespace mesh::serve::l7
