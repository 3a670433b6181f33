// A TCP relay on loopback whose connections can be cut and let through again.
#pragma once

#include <array>
#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>
#include <memory>
#include <set>

namespace mesh::interop {

/// @thread the executor's
class Relay {
    using Tcp = boost::asio::ip::tcp;

  public:
    Relay(boost::asio::any_io_executor executor, std::uint16_t target)
        : acceptor_(executor, {boost::asio::ip::address_v4::loopback(), 0}), target_(target) {
        accept();
    }
    [[nodiscard]] std::uint16_t port() const { return acceptor_.local_endpoint().port(); }
    void cut() {
        open_ = false;
        for (const auto& link : std::exchange(links_, {})) link->close();
    }
    void heal() { open_ = true; }
    void stop() {
        cut();
        acceptor_.close();
    }

  private:
    struct Link {
        explicit Link(Tcp::socket&& accepted)
            : near(std::move(accepted)), far(near.get_executor()) {}
        void close() {
            boost::system::error_code ignored;
            near.close(ignored);
            far.close(ignored);
        }
        Tcp::socket near, far;
        std::array<char, 65536> up{}, down{};
    };
    void accept() {
        acceptor_.async_accept([this](const boost::system::error_code& ec, Tcp::socket socket) {
            if (ec) return;
            if (open_) begin(std::make_shared<Link>(std::move(socket)));
            accept();
        });
    }
    void begin(const std::shared_ptr<Link>& link) {
        links_.insert(link);
        link->far.async_connect({boost::asio::ip::address_v4::loopback(), target_},
                                [this, link](const boost::system::error_code& ec) {
                                    if (ec) return end(link);
                                    pump(link, link->near, link->far, link->up);
                                    pump(link, link->far, link->near, link->down);
                                });
    }
    void pump(const std::shared_ptr<Link>& link, Tcp::socket& from, Tcp::socket& to,
              std::array<char, 65536>& buffer) {
        from.async_read_some(
            boost::asio::buffer(buffer),
            [this, link, &from, &to, &buffer](const boost::system::error_code& ec, std::size_t n) {
                if (ec) return end(link);
                boost::asio::async_write(to, boost::asio::buffer(buffer, n),
                                         [this, link, &from, &to, &buffer](
                                             const boost::system::error_code& failed, std::size_t) {
                                             if (failed) return end(link);
                                             pump(link, from, to, buffer);
                                         });
            });
    }
    void end(const std::shared_ptr<Link>& link) {
        link->close();
        links_.erase(link);
    }

    Tcp::acceptor acceptor_;
    std::uint16_t target_;
    bool open_ = true;
    std::set<std::shared_ptr<Link>> links_;
};

}  // namespace mesh::interop
