// Requests that are HTTP/2, and no gRPC as it should be.
#include <cstring>

#include "sessions.hpp"

namespace mesh::rpc {
namespace {

// A client that breaks the rules: nghttp2 by hand.
class RawClient {
  public:
    RawClient() {
        nghttp2_session_callbacks* cb = nullptr;
        nghttp2_session_callbacks_new(&cb);
        nghttp2_session_callbacks_set_on_header_callback(
            cb, [](nghttp2_session*, const nghttp2_frame*, const std::uint8_t* name, std::size_t nl,
                   const std::uint8_t* value, std::size_t vl, std::uint8_t, void* user) {
                static_cast<RawClient*>(user)->headers.emplace_back(
                    std::string(reinterpret_cast<const char*>(name), nl),
                    std::string(reinterpret_cast<const char*>(value), vl));
                return 0;
            });
        nghttp2_session_callbacks_set_on_frame_recv_callback(
            cb, [](nghttp2_session*, const nghttp2_frame* frame, void* user) {
                if (frame->hd.type == NGHTTP2_RST_STREAM) ++static_cast<RawClient*>(user)->resets;
                if (frame->hd.type == NGHTTP2_GOAWAY) ++static_cast<RawClient*>(user)->goaways;
                return 0;
            });
        nghttp2_session_client_new(&session, cb, this);
        nghttp2_session_callbacks_del(cb);
        nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, nullptr, 0);
    }
    ~RawClient() { nghttp2_session_del(session); }
    RawClient(const RawClient&) = delete;
    RawClient& operator=(const RawClient&) = delete;

    void request(const Metadata& fields, std::string body) {
        std::vector<nghttp2_nv> nva;
        for (const auto& [n, v] : fields) nva.push_back(detail::field(n, v));
        body_ = std::move(body);
        nghttp2_data_provider provider{};
        provider.source.ptr = this;
        provider.read_callback = [](nghttp2_session*, std::int32_t, std::uint8_t* to, std::size_t n,
                                    std::uint32_t* flags, nghttp2_data_source* source,
                                    void*) -> ssize_t {
            std::string& b = static_cast<RawClient*>(source->ptr)->body_;
            n = std::min(n, b.size());
            std::memcpy(to, b.data(), n);
            b.erase(0, n);
            if (b.empty()) *flags |= NGHTTP2_DATA_FLAG_EOF;
            return static_cast<ssize_t>(n);
        };
        nghttp2_submit_request(session, nullptr, nva.data(), nva.size(), &provider, nullptr);
    }

    std::string bytes() {
        std::string out;
        const std::uint8_t* data = nullptr;
        for (ssize_t n = 0; (n = nghttp2_session_mem_send(session, &data)) > 0;)
            out.append(reinterpret_cast<const char*>(data), static_cast<std::size_t>(n));
        return out;
    }
    void receive(const std::string& in) {
        nghttp2_session_mem_recv(session, reinterpret_cast<const std::uint8_t*>(in.data()),
                                 in.size());
    }

    nghttp2_session* session = nullptr;
    Metadata headers;
    int resets = 0;
    int goaways = 0;

  private:
    std::string body_;
};

class MalformedRequestTest : public SessionTest {
  protected:
    /// One request, as given; what the server answered.
    void exchange(const Metadata& fields, std::string body) {
        add_echo();
        routes_["/t.T/One"].unary = [](const ServerCallPtr& call, std::string_view m) {
            call->reply(make_frame(m));
        };
        open();
        raw_.request(fields, std::move(body));
        for (int i = 0; i < 5; ++i) {
            EXPECT_TRUE(server_->receive(raw_.bytes(), clock_.now()));
            server_->turn();
            std::string back;
            server_->produce(back, 100'000);
            raw_.receive(back);
        }
    }
    static Metadata good(std::string path = "/t.T/One") {
        return {{":method", "POST"},
                {":scheme", "http"},
                {":path", std::move(path)},
                {":authority", "a"},
                {"content-type", "application/grpc"},
                {"te", "trailers"}};
    }
    static Metadata with(std::string name, std::string value) {
        Metadata fields = good();
        for (auto& [n, v] : fields) {
            if (n == name) {
                v = value;
                return fields;
            }
        }
        fields.emplace_back(name, value);
        return fields;
    }
    std::string_view status() const { return find_metadata(raw_.headers, "grpc-status"); }
    std::string one_ = std::string(make_frame("x").wire());
    RawClient raw_;
};

TEST_F(MalformedRequestTest, ControlIsGood) {
    exchange(good(), one_);
    EXPECT_EQ(status(), "0");
}
TEST_F(MalformedRequestTest, WrongMethod) {
    exchange(with(":method", "GET"), one_);
    EXPECT_EQ(find_metadata(raw_.headers, ":status"), "405");
}
TEST_F(MalformedRequestTest, WrongContentType) {
    exchange(with("content-type", "application/json"), one_);
    EXPECT_EQ(find_metadata(raw_.headers, ":status"), "415");
}
TEST_F(MalformedRequestTest, BadTimeout) {
    exchange(with("grpc-timeout", "soon"), one_);
    EXPECT_EQ(status(), "3");
}
TEST_F(MalformedRequestTest, ForeignCompression) {
    exchange(with("grpc-encoding", "gzip"), one_);
    EXPECT_EQ(status(), "12");
    EXPECT_EQ(find_metadata(raw_.headers, "grpc-accept-encoding"), "identity");
}
TEST_F(MalformedRequestTest, CompressedFlag) {
    exchange(good(), std::string("\1\0\0\0\1x", 6));
    EXPECT_EQ(status(), "13");
}
TEST_F(MalformedRequestTest, UnaryWithoutMessage) {
    exchange(good(), "");
    EXPECT_EQ(status(), "13");
}
TEST_F(MalformedRequestTest, UnaryWithTwoMessages) {
    exchange(good(), one_ + one_);
    EXPECT_EQ(status(), "13");
}
TEST_F(MalformedRequestTest, HalfAMessage) {
    exchange(good(), one_.substr(0, 5));
    EXPECT_EQ(status(), "13");
    EXPECT_NE(find_metadata(raw_.headers, "grpc-message").find("inside a message"),
              std::string_view::npos);
}
TEST_F(MalformedRequestTest, ConnectionHeaderResetsTheStream) {
    exchange(with("connection", "close"), one_);
    EXPECT_EQ(raw_.resets, 1);
    EXPECT_EQ(core_->stats.calls, 0U);
}

TEST_F(SessionTest, BytesThatAreNoHttp2EndTheSession) {
    open();
    EXPECT_FALSE(server_->receive("GET / HTTP/1.1\r\nHost: a\r\n\r\n", clock_.now()));
    EXPECT_TRUE(server_->finished());
    EXPECT_FALSE(client_->receive("HTTP/1.1 400 Bad Request\r\n\r\n", clock_.now()) &&
                 !client_->finished() && client_->ready());
}

TEST_F(SessionTest, FrameForAnIdleStreamIsAnsweredByGoAway) {
    open();
    RawClient raw;
    std::string bytes = raw.bytes();
    bytes +=
        std::string("\0\0\4\x8\0\0\0\0\x5\0\0\0\1", 13);  // WINDOW_UPDATE on stream 5, never opened
    EXPECT_TRUE(server_->receive(bytes, clock_.now()));
    std::string back;
    server_->produce(back, 100'000);
    raw.receive(back);
    EXPECT_EQ(raw.goaways, 1);
    EXPECT_TRUE(server_->finished());
    EXPECT_FALSE(server_->failure().empty());
}

}  // namespace
}  // namespace mesh::rpc
