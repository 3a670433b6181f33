// Bytes on their way to one socket. What comes from a read buffer stays there until the end of the
// turn: in the ordinary case it goes to the other socket without being copied.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace mesh::serve::l7 {

class Outbox {
  public:
    /// Bytes that live until keep(), flush() or take_all().
    void add_view(std::string_view bytes);
    void add_copy(std::string_view bytes);
    /// Copies what add_view() gave and was not sent.
    void keep();
    [[nodiscard]] std::size_t size() const noexcept {
        return static_cast<std::size_t>(added_ - sent_);
    }
    [[nodiscard]] bool empty() const noexcept { return added_ == sent_; }

    /// All that was ever added, for rewind().
    [[nodiscard]] std::uint64_t position() const noexcept { return added_; }
    /// Drops what was added behind `position`. @return false if some of it has left already
    [[nodiscard]] bool rewind(std::uint64_t position);
    void clear();

    enum class Flush : std::uint8_t { kAll, kSome, kBroken };
    /// Writes to a socket what it takes, and keeps the rest. @return kBroken: errno says why
    [[nodiscard]] Flush flush(int socket);
    /// Moves everything into `out`, for tests.
    void take_all(std::string& out);
    /// What has left so far.
    [[nodiscard]] std::uint64_t sent() const noexcept { return sent_; }

  private:
    static constexpr std::size_t kViews = 16;
    void consume(std::size_t bytes);

    std::string kept_;  // from head_ on; before the views
    std::size_t head_ = 0;
    std::array<std::string_view, kViews> views_;
    std::size_t view_count_ = 0;
    std::uint64_t added_ = 0, sent_ = 0;
};

}  // namespace mesh::serve::l7
