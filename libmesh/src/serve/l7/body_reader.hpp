// Follows a message's body without keeping any of it: where it ends, and whether its chunks and
// trailers are well-formed. Strict as the heads are: see http_head.hpp.
// @source RFC 9112 §6, §7
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "serve/l7/http_head.hpp"

namespace mesh::serve::l7 {

class BodyReader {
  public:
    void begin(BodyKind kind, std::uint64_t length, const HeadLimits& limits) noexcept;
    /// Takes what belongs to the body. @return bytes taken, fewer than given only at the end of the
    /// body or of its sense: see problem()
    [[nodiscard]] std::size_t take(std::string_view bytes) noexcept;
    /// All of the body was seen. Never of one that lasts until the connection ends.
    [[nodiscard]] bool done() const noexcept { return step_ == Step::kDone; }
    [[nodiscard]] bool until_close() const noexcept { return step_ == Step::kUntilClose; }
    [[nodiscard]] Problem problem() const noexcept { return problem_; }

  private:
    enum class Step : std::uint8_t {
        kDone,
        kUntilClose,
        kLength,
        kSizeFirst,
        kSize,
        kExtension,
        kSizeLf,
        kData,
        kDataCr,
        kDataLf,
        kTrailerFirst,
        kTrailerName,
        kTrailerValue,
        kTrailerLf,
        kLastLf,
    };
    void step(char c) noexcept;
    void step_size(char c) noexcept;
    void step_trailer(char c) noexcept;
    void fail(Problem problem) noexcept { problem_ = problem; }

    Step step_ = Step::kDone;
    Problem problem_ = Problem::kNone;
    std::uint64_t left_ = 0;  // of the body or of the chunk
    unsigned digits_ = 0;
    std::size_t line_bytes_ = 0;     // of a chunk's size line
    std::size_t trailer_bytes_ = 0;  // of all trailers
    std::size_t trailers_ = 0;
    HeadLimits limits_;
    std::array<char, 24> name_{};  // of a trailer, as far as it matters
    std::size_t name_size_ = 0;
};

}  // namespace mesh::serve::l7
