#include "pod_traffic.hpp"

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

namespace mesh::test {
namespace {

constexpr std::uint16_t kPort = 7070;

sockaddr_in at(const std::string& ip) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(kPort);
    ::inet_pton(AF_INET, ip.c_str(), &to.sin_addr);
    return to;
}

int connected(const std::string& ip) {
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const timeval limit{.tv_sec = 10, .tv_usec = 0};
    ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);  // of connect too
    const sockaddr_in to = at(ip);
    if (::connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0) return fd;
    ::close(fd);
    return -1;
}

bool asks(int fd) {
    char byte = 'x';
    return ::send(fd, &byte, 1, MSG_NOSIGNAL) == 1 && ::recv(fd, &byte, 1, 0) == 1;
}

}  // namespace

PodTraffic::PodTraffic(const Netns& client, const Netns& server, const std::string& ip) {
    int listener = -1;
    server.run([&] {
        listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        const int on = 1;
        ::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        const sockaddr_in here = at("0.0.0.0");
        if (::bind(listener, reinterpret_cast<const sockaddr*>(&here), sizeof here) != 0 ||
            ::listen(listener, 64) != 0) {
            throw std::runtime_error("no listener for traffic");
        }
    });
    server_ = std::thread([this, listener] { serve(listener); });
    kept_ = std::thread([this, &client, ip] { client.run([&] { keep_one(ip); }); });
    renewed_ = std::thread([this, &client, ip] { client.run([&] { renew(ip); }); });
    wait_for_answers(1);
}

PodTraffic::~PodTraffic() {
    stop_ = true;
    for (std::thread* thread : {&kept_, &renewed_, &server_}) thread->join();
}

void PodTraffic::wait_for_answers(int count) const {
    const int kept = kept_answers_ + count, renewed = new_answers_ + count;
    while ((kept_answers_ < kept || new_answers_ < renewed) && failures_ == 0) {
        std::this_thread::yield();
    }
}

void PodTraffic::serve(int listener) {
    std::vector<pollfd> open{{listener, POLLIN, 0}};
    while (!stop_) {
        if (::poll(open.data(), open.size(), 20) <= 0) continue;
        for (std::size_t i = open.size(); i-- > 1;) {
            if (open[i].revents == 0) continue;
            char byte = 0;
            if (::recv(open[i].fd, &byte, 1, 0) == 1 &&
                ::send(open[i].fd, &byte, 1, MSG_NOSIGNAL) == 1) {
                continue;
            }
            ::close(open[i].fd);
            open.erase(open.begin() + static_cast<std::ptrdiff_t>(i));
        }
        if (open[0].revents != 0) {
            const int fd = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
            if (fd >= 0) open.push_back({fd, POLLIN, 0});
        }
    }
    for (const pollfd& each : open) ::close(each.fd);
}

void PodTraffic::keep_one(const std::string& ip) {
    const int fd = connected(ip);
    if (fd < 0) ++failures_;
    while (!stop_ && fd >= 0) {
        if (!asks(fd)) {
            ++failures_;
            break;
        }
        ++kept_answers_;
    }
    if (fd >= 0) ::close(fd);
}

void PodTraffic::renew(const std::string& ip) {
    while (!stop_) {
        const int fd = connected(ip);
        if (fd >= 0 && asks(fd)) {
            ++new_answers_;
        } else {
            ++failures_;
        }
        if (fd >= 0) ::close(fd);
    }
}

}  // namespace mesh::test
