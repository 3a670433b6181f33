// Takes gRPC's length-prefixed messages out of a stream of bytes. Internal to rpc/.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace mesh::rpc::detail {

/// A message that lies whole in one chunk is given as a view of that chunk, without a copy.
/// @thread one thread
class MessageReader {
  public:
    enum class Outcome : std::uint8_t {
        kNeedMore,    ///< all of `data` was taken
        kMessage,     ///< `message` is set; call again with what is left of `data`
        kCompressed,  ///< the compressed flag is set; nobody agreed on a compression
        kBadFlag,     ///< a flag byte that is neither 0 nor 1
        kTooLarge,    ///< longer than `limit`
    };
    /// Takes from the front of `data`. After a failure the reader must not be used again.
    /// @param message valid until the next call, and as long as the memory of `data`
    [[nodiscard]] Outcome next(std::string_view& data, std::string_view& message,
                               std::size_t limit);
    /// Inside a message: its end has not come.
    [[nodiscard]] bool partial() const noexcept { return !delivered_ && !buffer_.empty(); }
    /// Bytes of memory that messages hold here.
    [[nodiscard]] std::size_t buffered() const noexcept;
    /// The message that next() gave, without a copy where it can be; its view is void then.
    [[nodiscard]] std::string take(std::string_view message);
    /// Lets go of a message that was given and read: one large message must not pin its memory
    /// until the next one comes. Its view is void then.
    void release() noexcept;
    /// Lets go of everything; the reader is not used again.
    void drop() noexcept { std::string().swap(buffer_); }

  private:
    std::string buffer_;  // prefix and payload so far
    bool delivered_ = false;
};

}  // namespace mesh::rpc::detail
