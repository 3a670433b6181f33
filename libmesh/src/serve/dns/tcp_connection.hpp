// One TCP connection of a client to a server, in two halves with the policy between. Internal to
// this folder.
#pragma once

#include <algorithm>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/task_group.hpp"
#include "serve/dns/query_gate.hpp"

namespace mesh::serve::dns {

/// Messages out of a stream: each has its length, two bytes, before it. @source RFC 1035 §4.2.2
class FrameReader {
  public:
    /// Where to read to; never empty.
    [[nodiscard]] std::span<std::uint8_t> room() {
        if (buffer_.size() - end_ < kRead) buffer_.resize(end_ + kRead);
        return std::span(buffer_).subspan(end_);
    }
    void commit(std::size_t bytes) noexcept { end_ += bytes; }
    /// The next message, if all of it is there; holds until room() is called.
    [[nodiscard]] std::optional<BytesView> next() {
        const std::size_t have = end_ - begin_;
        const std::size_t length = next_length();
        if (have < 2 || have - 2 < length) {
            if (begin_ > 0) std::copy(at(begin_), at(end_), buffer_.begin());
            end_ = have;
            begin_ = 0;
            return std::nullopt;
        }
        const auto message = BytesView(buffer_).subspan(begin_ + 2, length);
        begin_ += 2 + length;
        return message;
    }
    /// As its first two bytes say; 0 if they are not there.
    [[nodiscard]] std::size_t next_length() const noexcept {
        if (end_ - begin_ < 2) return 0;
        return static_cast<std::size_t>(buffer_[begin_] << 8 | buffer_[begin_ + 1]);
    }

  private:
    static constexpr std::size_t kRead = 4096;
    [[nodiscard]] Bytes::iterator at(std::size_t offset) {
        return buffer_.begin() + static_cast<std::ptrdiff_t>(offset);
    }
    Bytes buffer_;
    std::size_t begin_ = 0, end_ = 0;
};

/// @thread the executor's thread
class TcpConnection : public std::enable_shared_from_this<TcpConnection> {
  public:
    using Stream = boost::asio::ip::tcp::socket;
    /// @param tasks the connection to the server is one of them
    TcpConnection(std::shared_ptr<QueryGate> gate, TaskGroup& tasks, Stream client,
                  PeerAddress client_address, PeerAddress server_address);

    /// Serves the client until it, or its time, has ended.
    static boost::asio::awaitable<void> run(std::shared_ptr<TcpConnection> self);
    void close();

  private:
    static boost::asio::awaitable<void> run_upstream(std::shared_ptr<TcpConnection> self,
                                                     std::shared_ptr<Stream> upstream);
    static boost::asio::awaitable<bool> read_some(Stream& stream, FrameReader& frames);
    boost::asio::awaitable<void> wait_for_room();
    /// @return false if the client is not to be listened to any more
    bool take_queries(FrameReader& frames);
    void take_query(BytesView message);
    void take_answer(BytesView message);
    void forward(ExchangePtr exchange);
    /// @return why not
    std::string open_server();
    void server_gone(const std::shared_ptr<Stream>& upstream, std::string_view reason);
    void reply(Bytes message);
    void replied();
    void write_to_client();
    void write_to_server();
    void watch_idle();
    void watch_deadlines();

    std::shared_ptr<QueryGate> gate_;
    TaskGroup& tasks_;
    Stream client_;
    PeerAddress client_address_, server_address_;
    std::shared_ptr<Stream> upstream_;
    bool upstream_connected_ = false;
    unsigned wrong_answers_ = 0;
    std::map<std::uint16_t, ExchangePtr> pending_;  ///< by the id that the server sees
    std::size_t in_flight_ = 0;                     ///< queries whose answer is not written yet
    std::deque<Bytes> to_client_, to_server_;       ///< with their lengths; the first is written
    bool writing_to_client_ = false, writing_to_server_ = false;
    TimePoint write_began_;
    boost::asio::steady_timer idle_, deadline_, room_;
    bool timing_ = false;
    bool closed_ = false;
};

}  // namespace mesh::serve::dns
