#include "rpc/wire.hpp"

#include <gtest/gtest.h>

#include "rpc/frame.hpp"
#include "rpc/message_reader.hpp"

namespace mesh::rpc {
namespace {

using namespace std::chrono_literals;
using detail::MessageReader;

TEST(Timeout, ParsesEachUnit) {
    EXPECT_EQ(detail::parse_timeout("1H"), Duration(1h));
    EXPECT_EQ(detail::parse_timeout("2M"), Duration(2min));
    EXPECT_EQ(detail::parse_timeout("3S"), Duration(3s));
    EXPECT_EQ(detail::parse_timeout("4m"), Duration(4ms));
    EXPECT_EQ(detail::parse_timeout("5u"), Duration(5us));
    EXPECT_EQ(detail::parse_timeout("99999999n"), Duration(99999999ns));
    EXPECT_EQ(detail::parse_timeout("99999999H"), Duration::max());
}

TEST(Timeout, RefusesWhatIsNone) {
    for (const char* text : {"", "1", "S", "-1S", "1s", "123456789S", "1 S", "1.5S", "0x1S"})
        EXPECT_FALSE(detail::parse_timeout(text)) << text;
}

TEST(Timeout, FormatsWithoutShortening) {
    EXPECT_EQ(detail::format_timeout(1s), "1000000u");
    EXPECT_EQ(detail::format_timeout(0s), "0n");
    EXPECT_EQ(detail::format_timeout(-1s), "0n");
    for (const Duration d :
         {Duration(1ns), Duration(99'999'999ns), Duration(100'000'001ns), Duration(10h)}) {
        const auto back = detail::parse_timeout(detail::format_timeout(d));
        ASSERT_TRUE(back);
        EXPECT_GE(*back, d);
    }
}

TEST(GrpcMessage, EscapesAndBack) {
    const std::string text = "50% of \xc3\xa9\n\x01 done";
    const std::string wire = detail::escape_message(text);
    EXPECT_EQ(wire, "50%25 of %C3%A9%0A%01 done");
    EXPECT_EQ(detail::unescape_message(wire), text);
    EXPECT_EQ(detail::unescape_message("100%"), "100%");
    EXPECT_EQ(detail::unescape_message("%zz%4"), "%zz%4");
}

TEST(GrpcStatus, ParsesNumbersOnly) {
    EXPECT_EQ(detail::parse_status_code("7"), StatusCode::kPermissionDenied);
    EXPECT_EQ(detail::parse_status_code("17"), StatusCode::kUnknown);
    EXPECT_EQ(detail::parse_status_code("99999999999"), StatusCode::kUnknown);
    EXPECT_FALSE(detail::parse_status_code(""));
    EXPECT_FALSE(detail::parse_status_code("7x"));
}

TEST(GrpcStatus, TellsWhatTheCallerShouldDo) {
    EXPECT_EQ(to_errc(StatusCode::kUnavailable), Errc::kUnavailable);
    EXPECT_EQ(to_errc(StatusCode::kUnauthenticated), Errc::kPermission);
    EXPECT_EQ(to_errc(StatusCode::kDeadlineExceeded), Errc::kTimeout);
    EXPECT_EQ(to_error({StatusCode::kPermissionDenied, "no"}).message(),
              "permission: PERMISSION_DENIED: no");
    for (int n = 1; n <= 11; ++n) {
        const auto code = static_cast<Errc>(n);
        if (code == Errc::kCompacted) continue;  // OUT_OF_RANGE has more meanings than that
        EXPECT_EQ(to_errc(to_status(Error(code, "x")).code), code) << to_string(code);
    }
}

TEST(Headers, CustomNames) {
    EXPECT_TRUE(detail::is_custom_header("hasleader"));
    EXPECT_TRUE(detail::is_custom_header("token-bin"));
    for (const char* name : {"", "Upper", "grpc-status", ":path", "te", "a b", "content-type"})
        EXPECT_FALSE(detail::is_custom_header(name)) << name;
    EXPECT_TRUE(detail::is_grpc_content_type("application/grpc"));
    EXPECT_TRUE(detail::is_grpc_content_type("application/grpc+proto"));
    EXPECT_FALSE(detail::is_grpc_content_type("application/grpcx"));
    EXPECT_FALSE(detail::is_grpc_content_type("application/json"));
}

std::vector<std::string> read_all(MessageReader& reader, std::string_view bytes,
                                  std::size_t chunk) {
    std::vector<std::string> messages;
    while (!bytes.empty()) {
        std::string piece(bytes.substr(0, chunk));
        bytes.remove_prefix(piece.size());
        std::string_view data = piece;
        std::string_view message;
        while (reader.next(data, message, 1000) == MessageReader::Outcome::kMessage)
            messages.emplace_back(message);
    }
    return messages;
}

TEST(MessageReader, AnyCutGivesTheSameMessages) {
    const std::vector<std::string> want = {"one", "", std::string(300, 'x'), "four"};
    std::string bytes;
    for (const std::string& text : want) bytes += make_frame(text).wire();
    for (std::size_t chunk = 1; chunk <= bytes.size(); ++chunk) {
        MessageReader reader;
        EXPECT_EQ(read_all(reader, bytes, chunk), want) << chunk;
        EXPECT_FALSE(reader.partial());
        EXPECT_EQ(reader.buffered(), 0U);
    }
}

TEST(MessageReader, NoticesHalfMessages) {
    MessageReader reader;
    const Frame frame = make_frame("hello");
    std::string_view data = frame.wire().substr(0, 7);
    std::string_view message;
    EXPECT_EQ(reader.next(data, message, 100), MessageReader::Outcome::kNeedMore);
    EXPECT_TRUE(reader.partial());
    EXPECT_EQ(reader.buffered(), 7U);
}

TEST(MessageReader, KeepsNoMessageThatWasTakenOrReleased) {
    const std::string large(100'000, 'm');
    const Frame frame = make_frame(large);
    for (const bool take : {true, false}) {
        MessageReader reader;
        std::string_view message;
        for (std::string_view half : {frame.wire().substr(0, 50'000), frame.wire().substr(50'000)})
            static_cast<void>(reader.next(half, message, large.size()));
        ASSERT_EQ(message, large);
        EXPECT_GE(reader.buffered(), large.size());
        EXPECT_FALSE(reader.partial());
        if (take) {
            EXPECT_EQ(reader.take(message), large);
        } else {
            reader.release();
        }
        EXPECT_EQ(reader.buffered(), 0U);
        std::string_view next = frame.wire();
        ASSERT_EQ(reader.next(next, message, large.size()), MessageReader::Outcome::kMessage);
        EXPECT_EQ(reader.take(message), large) << "a view of the chunk";
    }
}

TEST(MessageReader, BoundsAndFlags) {
    const auto outcome = [](std::string bytes, std::size_t limit) {
        MessageReader reader;
        std::string_view data = bytes;
        std::string_view message;
        return reader.next(data, message, limit);
    };
    EXPECT_EQ(outcome(std::string("\0\0\0\0\x0b", 5), 10), MessageReader::Outcome::kTooLarge);
    EXPECT_EQ(outcome(std::string("\0\xff\xff\xff\xff", 5), 1U << 30),
              MessageReader::Outcome::kTooLarge);
    EXPECT_EQ(outcome(std::string("\1\0\0\0\1x", 6), 10), MessageReader::Outcome::kCompressed);
    EXPECT_EQ(outcome(std::string("\2\0\0\0\1x", 6), 10), MessageReader::Outcome::kBadFlag);
}

TEST(Frame, HoldsPrefixAndMessage) {
    const Frame frame = make_frame("abc");
    EXPECT_EQ(frame.wire(), std::string_view("\0\0\0\0\3abc", 8));
    EXPECT_EQ(frame.message(), "abc");
    EXPECT_TRUE(frame);
    EXPECT_FALSE(Frame());
    EXPECT_EQ(make_frame("").message(), "");
}

}  // namespace
}  // namespace mesh::rpc
