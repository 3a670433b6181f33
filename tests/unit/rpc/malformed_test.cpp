// A table of bytes that a client must not send, each with what the server does about it. Whatever
// it is, calls are told their end, and a connection beside it works. The same bytes are in the
// fuzzer's corpus: MESH_WRITE_CORPUS=FOLDER writes them there.
#include <cstdlib>
#include <fstream>

#include "raw_frames.hpp"

namespace mesh::rpc::raw {
namespace {

enum class Then {
    kGoAway,   // the connection ends with `code`
    kBroken,   // it ends at once: what came is no HTTP/2
    kReset,    // stream 1 is reset with `code`
    kStatus,   // stream 1 is answered with this grpc-status
    kHttp,     // stream 1 is answered with this :status
    kNothing,  // not worth an answer; the connection lives
    kAny,      // by what came first
};

struct Row {
    const char* name;
    std::string bytes;  // behind the preface and SETTINGS
    Then then;
    std::uint32_t code = 0;
    bool whole = false;  // the bytes are all that is sent
};

std::string with(const Metadata& more, std::string body) {
    return frame(kHeaders, kEndHeaders, 1, fields("/t.T/One", more)) + std::move(body);
}
std::string one(std::string_view data, std::uint8_t flags = kEnd) {
    return request(1, "/t.T/One") + frame(kData, flags, 1, data);
}
std::string without(std::string_view name) {
    std::string block;
    for (const auto& [n, v] : Metadata{{":method", "POST"},
                                       {":scheme", "http"},
                                       {":path", "/t.T/One"},
                                       {":authority", "a"},
                                       {"content-type", "application/grpc"}})
        if (n != name) block += literal(n, v);
    return frame(kHeaders, kEndHeaders, 1, block) + message(1, "x");
}
/// A field of 4,000 bytes put into the table, then named as often as a frame has bytes.
std::string bomb() {
    std::string block = fields("/t.T/One");
    block += std::string("\x40\x01x\x7f\xa1\x1e", 6) + std::string(4'000, 'v');
    return frame(kHeaders, kEndHeaders, 1, block + std::string(12'000, '\xbe')) + message(1, "x");
}

std::vector<Row> rows() {
    constexpr std::uint32_t kProtocol = NGHTTP2_PROTOCOL_ERROR;
    constexpr std::uint32_t kSize = NGHTTP2_FRAME_SIZE_ERROR;
    constexpr std::uint32_t kFlow = NGHTTP2_FLOW_CONTROL_ERROR;
    constexpr std::uint32_t kHpack = NGHTTP2_COMPRESSION_ERROR;
    const std::string x(make_frame("x").wire());
    const std::string long_name(200, 'p');
    return {
        {"preface_none", settings(), Then::kBroken, 0, true},
        {"preface_http1", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", Then::kBroken, 0, true},
        {"preface_tls", std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11) + "x",
         Then::kBroken, 0, true},
        {"preface_cut", kPreface.substr(0, 20), Then::kNothing, 0, true},
        {"preface_then_ping", kPreface + ping(), Then::kGoAway, kProtocol, true},
        {"preface_ack_first", kPreface + frame(kSettings, kAck, 0), Then::kGoAway, kProtocol, true},
        // Sizes and places of frames.
        {"frame_too_large", frame(kData, kNone, 1, "", 16'385), Then::kGoAway, kSize},
        {"frame_largest_length", frame(kData, kNone, 1, "", 0xff'ffff), Then::kGoAway, kSize},
        {"ping_of_seven", frame(kPing, kNone, 0, "7 bytes"), Then::kGoAway, kSize},
        {"ping_on_a_stream", frame(kPing, kNone, 1, "8 bytes."), Then::kGoAway, kProtocol},
        {"settings_of_five", frame(kSettings, kNone, 0, "12345"), Then::kGoAway, kSize},
        {"settings_on_a_stream", frame(kSettings, kNone, 1), Then::kGoAway, kProtocol},
        {"settings_ack_with_payload", frame(kSettings, kAck, 0, "123456"), Then::kGoAway, kSize},
        {"settings_window_too_large",
         frame(kSettings, kNone, 0, number(4, 2) + number(0x8000'0000, 4)), Then::kGoAway, kFlow},
        {"settings_frame_size_zero", frame(kSettings, kNone, 0, number(5, 2) + number(0, 4)),
         Then::kGoAway, kProtocol},
        {"settings_push_of_two", frame(kSettings, kNone, 0, number(2, 2) + number(2, 4)),
         Then::kGoAway, kProtocol},
        {"settings_unknown", frame(kSettings, kNone, 0, number(0xfefe, 2) + number(1, 4)),
         Then::kNothing},
        {"reset_of_three", frame(kReset, kNone, 1, "123"), Then::kGoAway, kSize},
        {"reset_idle", reset(1), Then::kGoAway, kProtocol},
        {"reset_zero", reset(0), Then::kGoAway, kProtocol},
        {"window_of_three", frame(kWindowUpdate, kNone, 0, "123"), Then::kGoAway, kSize},
        {"window_by_zero", window_update(0, 0), Then::kGoAway, kProtocol},
        {"window_overflow", window_update(0, 0x7fff'ffff), Then::kGoAway, kFlow},
        {"window_idle_stream", window_update(5, 1), Then::kGoAway, kProtocol},
        {"window_overflow_stream", request(1, "/t.T/Hold") + window_update(1, 0x7fff'ffff),
         Then::kReset, kFlow},
        {"goaway_of_seven", frame(kGoAway, kNone, 0, "1234567"), Then::kGoAway, kSize},
        {"goaway_on_a_stream", frame(kGoAway, kNone, 1, "12345678"), Then::kGoAway, kProtocol},
        {"push_promise", frame(kPushPromise, kEndHeaders, 1, number(2, 4)), Then::kGoAway,
         kProtocol},
        {"continuation_alone", frame(kContinuation, kEndHeaders, 1), Then::kGoAway, kProtocol},
        {"continuation_of_another",
         request(1, "/t.T/One", kNone) + frame(kContinuation, kEndHeaders, 3), Then::kBroken},
        {"ping_inside_headers", request(1, "/t.T/One", kNone) + ping(), Then::kBroken},
        {"data_idle_stream", frame(kData, kEnd, 1, x), Then::kGoAway, kProtocol},
        {"data_zero_stream", frame(kData, kEnd, 0, x), Then::kGoAway, kProtocol},
        {"data_padding_too_long", request(1, "/t.T/One") + frame(kData, kPadded, 1, "\x09"),
         Then::kGoAway, kProtocol},
        {"data_after_end", one(x) + frame(kData, kEnd, 1, x), Then::kAny},
        {"headers_even_stream", request(2, "/t.T/One"), Then::kGoAway, kProtocol},
        {"headers_zero_stream", request(0, "/t.T/One"), Then::kGoAway, kProtocol},
        {"headers_going_back", request(5, "/t.T/Hold") + request(3, "/t.T/Hold"), Then::kAny},
        {"headers_padding_too_long",
         frame(kHeaders, kEndHeaders | kPadded, 1, std::string("\xff", 1) + "abc"), Then::kGoAway,
         kProtocol},
        {"priority_of_four", frame(kPriority, kNone, 1, "1234"), Then::kGoAway, kSize},
        {"unknown_type", frame(0xbe, 0xff, 7, "whatever"), Then::kNothing},
        // HPACK.
        {"hpack_index_zero", frame(kHeaders, kEndHeaders, 1, "\x80"), Then::kGoAway, kHpack},
        {"hpack_index_absent", frame(kHeaders, kEndHeaders, 1, "\xff\x80\x80\x01"), Then::kGoAway,
         kHpack},
        {"hpack_endless_number", frame(kHeaders, kEndHeaders, 1, "\xff" + std::string(20, '\x80')),
         Then::kGoAway, kHpack},
        {"hpack_cut_string", frame(kHeaders, kEndHeaders, 1, std::string("\x00\x7f", 2) + "short"),
         Then::kGoAway, kHpack},
        {"hpack_bad_huffman",
         frame(kHeaders, kEndHeaders, 1, std::string("\x00\x84\xff\xff\xff\xff\x00", 7)),
         Then::kGoAway, kHpack},
        {"hpack_table_too_large", frame(kHeaders, kEndHeaders, 1, "\x3f\xe1\xff\x7f"),
         Then::kGoAway, kHpack},
        {"hpack_bomb", bomb(), Then::kStatus, 8},
        // Headers that are none of a request.
        {"no_method", without(":method"), Then::kReset, kProtocol},
        {"no_path", without(":path"), Then::kReset, kProtocol},
        {"no_scheme", without(":scheme"), Then::kReset, kProtocol},
        {"no_content_type", without("content-type"), Then::kHttp, 415},
        {"empty_path", frame(kHeaders, kEndHeaders, 1, fields("")), Then::kReset, kProtocol},
        {"path_without_slash", frame(kHeaders, kEndHeaders, 1, fields("t.T/One")) + message(1, ""),
         Then::kReset, kProtocol},
        {"path_unknown", request(1, "/t.T/Three") + message(1, "x"), Then::kStatus, 12},
        {"path_long", request(1, "/" + long_name.substr(0, 120)) + message(1, "x"), Then::kStatus,
         12},
        {"upper_case_name", with({{"X-Upper", "1"}}, message(1, "x")), Then::kReset, kProtocol},
        {"value_with_newline", with({{"x", "a\r\nb"}}, message(1, "x")), Then::kReset, kProtocol},
        {"connection_header", with({{"connection", "close"}}, message(1, "x")), Then::kReset,
         kProtocol},
        {"te_other", with({{"te", "gzip"}}, message(1, "x")), Then::kReset, kProtocol},
        {"pseudo_unknown", with({{":x", "1"}}, message(1, "x")), Then::kReset, kProtocol},
        {"pseudo_late",
         frame(kHeaders, kEndHeaders, 1, literal("x", "y") + fields("/t.T/One")) + message(1, "x"),
         Then::kReset, kProtocol},
        {"length_lie", with({{"content-length", "999"}}, message(1, "x")), Then::kReset, kProtocol},
        {"length_negative", with({{"content-length", "-1"}}, message(1, "x")), Then::kReset,
         kProtocol},
        {"timeout_none", with({{"grpc-timeout", ""}}, message(1, "x")), Then::kStatus, 3},
        {"timeout_negative", with({{"grpc-timeout", "-1S"}}, message(1, "x")), Then::kStatus, 3},
        {"timeout_nine_digits", with({{"grpc-timeout", "999999999n"}}, message(1, "x")),
         Then::kStatus, 3},
        {"timeout_unit", with({{"grpc-timeout", "1s"}}, message(1, "x")), Then::kStatus, 3},
        {"timeout_longest", with({{"grpc-timeout", "99999999H"}}, message(1, "x")), Then::kStatus,
         0},
        {"timeout_zero", with({{"grpc-timeout", "0n"}}, ""), Then::kStatus, 4},
        {"encoding_gzip", with({{"grpc-encoding", "gzip"}}, message(1, "x")), Then::kStatus, 12},
        {"trailers_without_end",
         request(1, "/t.T/Echo") + frame(kHeaders, kEndHeaders, 1, literal("x", "y")), Then::kReset,
         kProtocol},
        {"trailers_with_end",
         request(1, "/t.T/One") + frame(kData, kNone, 1, x) +
             frame(kHeaders, kEndHeaders | kEnd, 1, literal("x", "y")),
         Then::kStatus, 0},
        {"pseudo_in_trailers",
         request(1, "/t.T/Echo") + frame(kHeaders, kEndHeaders | kEnd, 1, literal(":path", "/")),
         Then::kReset, kProtocol},
        // Messages.
        {"message_flag_one", one(std::string("\1\0\0\0\1x", 6)), Then::kStatus, 13},
        {"message_flag_two", one(std::string("\2\0\0\0\1x", 6)), Then::kStatus, 13},
        {"message_prefix_cut", one(std::string("\0\0\0", 3)), Then::kStatus, 13},
        {"message_cut", one(std::string("\0\0\0\0\x9x", 6)), Then::kStatus, 13},
        {"message_length_huge", one(std::string("\0\xff\xff\xff\xffx", 6)), Then::kStatus, 8},
        {"message_length_just_over", one(std::string(1, '\0') + number((4U << 20) + 1, 4)),
         Then::kStatus, 8},
        {"message_none", one(""), Then::kStatus, 13},
        {"message_two", one(x + x), Then::kStatus, 13},
        {"message_and_a_byte", one(x + std::string(1, '\0')), Then::kStatus, 13},
    };
}

class MalformedTest : public ServerTest {
  protected:
    void judge(const Row& row) {
        switch (row.then) {
            case Then::kGoAway:
                EXPECT_EQ(goaway(), row.code);
                EXPECT_TRUE(server_->finished());
                EXPECT_NE(server_->failure(), "");
                break;
            case Then::kBroken:
                EXPECT_TRUE(server_->finished());
                break;
            case Then::kReset: {
                const Received* reset = last(kReset, 1);
                EXPECT_TRUE(reset != nullptr && reset->code() == row.code)
                    << (reset != nullptr ? reset->code() : 0) << " goaway " << goaway();
                EXPECT_FALSE(server_->finished());
                break;
            }
            case Then::kStatus:
                EXPECT_EQ(answer(1).http, "200");
                EXPECT_EQ(answer(1).grpc, std::to_string(row.code)) << answer(1).text;
                break;
            case Then::kHttp:
                EXPECT_EQ(answer(1).http, std::to_string(row.code));
                break;
            case Then::kAny:
                break;
            case Then::kNothing:
                EXPECT_EQ(goaway(), -1);
                EXPECT_FALSE(server_->finished());
                break;
        }
    }

    static void write_corpus(const Row& row) {
        const char* folder = std::getenv("MESH_WRITE_CORPUS");
        if (folder == nullptr) return;
        std::ofstream file(std::string(folder) + "/" + row.name, std::ios::binary);
        // The first byte: pieces of 8, and whether the preface goes before.
        file << (row.whole ? '\x01' : '\x81') << row.bytes;
    }
};

TEST_F(MalformedTest, EachIsAnsweredAndHarmsNoOther) {
    open_raw();
    auto healthy = std::move(server_);
    for (const Row& row : rows()) {
        write_corpus(row);
        // In one piece, and byte by byte.
        for (const std::size_t piece : {row.bytes.size(), std::size_t{1}}) {
            SCOPED_TRACE(std::string(row.name) + " in pieces of " + std::to_string(piece));
            restart();
            server_ = std::make_unique<detail::ServerSession>(core_, std::make_shared<Peer>());
            if (!row.whole) {
                EXPECT_TRUE(give(kPreface + settings()));
            }
            for (std::string_view rest = row.bytes; !rest.empty();) {
                const std::string_view now = rest.substr(0, piece);
                rest.remove_prefix(now.size());
                if (!give(now)) break;
            }
            server_->on_timeout(clock_.now());
            take();
            judge(row);
            held_.clear();
            server_.reset();
            EXPECT_EQ(core_->stats.calls, 0U);
        }
    }
    restart();
    server_ = std::move(healthy);
    give(request(1, "/t.T/One") + message(1, "well"));
    EXPECT_EQ(answer(1).grpc, "0");
    EXPECT_EQ(answer(1).body, make_frame("well").wire());
}

}  // namespace
}  // namespace mesh::rpc::raw
