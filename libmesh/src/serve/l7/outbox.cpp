#include "serve/l7/outbox.hpp"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

namespace mesh::serve::l7 {

namespace {
constexpr std::size_t kIdleBytes = 4 << 10;  // more is not held by a connection with nothing to say
}

void Outbox::add_view(std::string_view bytes) {
    if (bytes.empty()) return;
    added_ += bytes.size();
    if (view_count_ > 0) {
        std::string_view& last = views_[view_count_ - 1];
        if (last.data() + last.size() == bytes.data()) {
            last = {last.data(), last.size() + bytes.size()};
            return;
        }
    }
    if (view_count_ == kViews) keep();
    views_[view_count_++] = bytes;
}

void Outbox::add_copy(std::string_view bytes) {
    keep();
    kept_.append(bytes);
    added_ += bytes.size();
}

void Outbox::keep() {
    for (std::size_t i = 0; i < view_count_; ++i) kept_.append(views_[i]);
    view_count_ = 0;
}

bool Outbox::rewind(std::uint64_t position) {
    const bool whole = position >= sent_;
    auto drop = static_cast<std::size_t>(added_ - std::max(position, sent_));
    added_ -= drop;
    while (drop > 0 && view_count_ > 0) {
        std::string_view& last = views_[view_count_ - 1];
        const std::size_t n = std::min(drop, last.size());
        last.remove_suffix(n);
        drop -= n;
        if (last.empty()) --view_count_;
    }
    kept_.resize(kept_.size() - drop);
    return whole;
}

void Outbox::clear() {
    view_count_ = 0;
    head_ = 0;
    std::string().swap(kept_);
    added_ = sent_;
}

void Outbox::consume(std::size_t bytes) {
    sent_ += bytes;
    const std::size_t n = std::min(bytes, kept_.size() - head_);
    head_ += n;
    bytes -= n;
    if (head_ == kept_.size()) {
        head_ = 0;
        if (kept_.capacity() > kIdleBytes) {
            std::string().swap(kept_);
        } else {
            kept_.clear();
        }
    }
    std::size_t gone = 0;
    for (; gone < view_count_ && bytes >= views_[gone].size(); ++gone) bytes -= views_[gone].size();
    std::copy(views_.begin() + static_cast<std::ptrdiff_t>(gone),
              views_.begin() + static_cast<std::ptrdiff_t>(view_count_), views_.begin());
    view_count_ -= gone;
    if (view_count_ > 0) views_[0].remove_prefix(bytes);
}

Outbox::Flush Outbox::flush(int socket) {
    while (!empty()) {
        std::array<iovec, kViews + 1> parts{};
        std::size_t count = 0;
        const auto part = [&](const char* data, std::size_t size) {
            parts[count++] = {const_cast<char*>(data), size};
        };
        if (head_ < kept_.size()) part(kept_.data() + head_, kept_.size() - head_);
        for (std::size_t i = 0; i < view_count_; ++i) part(views_[i].data(), views_[i].size());
        ssize_t n = 0;
        if (count == 1) {
            n = ::send(socket, parts[0].iov_base, parts[0].iov_len, MSG_NOSIGNAL | MSG_DONTWAIT);
        } else {
            msghdr message{};
            message.msg_iov = parts.data();
            message.msg_iovlen = count;
            n = ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        }
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK) return Flush::kBroken;
        if (n >= 0) consume(static_cast<std::size_t>(n));
        if (n < 0 || !empty()) {
            keep();
            // Space before head_ would grow with a peer that is always a little behind.
            if (head_ > kept_.size() / 2) {
                kept_.erase(0, head_);
                head_ = 0;
            }
            return empty() ? Flush::kAll : Flush::kSome;
        }
    }
    return Flush::kAll;
}

void Outbox::take_all(std::string& out) {
    keep();
    out.append(kept_, head_);
    kept_.clear();
    head_ = 0;
    sent_ = added_;
}

}  // namespace mesh::serve::l7
