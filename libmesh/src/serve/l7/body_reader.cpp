#include "serve/l7/body_reader.hpp"

#include <algorithm>

namespace mesh::serve::l7 {

namespace {
// Extensions mean nothing to anybody; what is longer than this is an attempt at something.
constexpr std::size_t kMaxSizeLine = 256;
constexpr unsigned kMaxSizeDigits = 15;  // no overflow

int hex(char c) noexcept {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}
}  // namespace

void BodyReader::begin(BodyKind kind, std::uint64_t length, const HeadLimits& limits) noexcept {
    problem_ = Problem::kNone;
    left_ = 0;
    limits_ = limits;
    trailer_bytes_ = trailers_ = 0;
    switch (kind) {
        case BodyKind::kNone:
            step_ = Step::kDone;
            break;
        case BodyKind::kLength:
            left_ = length;
            step_ = length > 0 ? Step::kLength : Step::kDone;
            break;
        case BodyKind::kChunked:
            step_ = Step::kSizeFirst;
            line_bytes_ = 0;
            break;
        case BodyKind::kUntilClose:
            step_ = Step::kUntilClose;
            break;
    }
}

std::size_t BodyReader::take(std::string_view bytes) noexcept {
    std::size_t at = 0;
    while (at < bytes.size() && problem_ == Problem::kNone && step_ != Step::kDone) {
        if (step_ == Step::kUntilClose) return bytes.size();
        if (step_ == Step::kLength || step_ == Step::kData) {
            const auto n =
                static_cast<std::size_t>(std::min<std::uint64_t>(left_, bytes.size() - at));
            left_ -= n;
            at += n;
            if (left_ == 0) step_ = step_ == Step::kLength ? Step::kDone : Step::kDataCr;
            continue;
        }
        step(bytes[at]);
        if (problem_ == Problem::kNone) ++at;
    }
    return at;
}

void BodyReader::step(char c) noexcept {
    switch (step_) {
        case Step::kSizeFirst:
        case Step::kSize:
        case Step::kExtension:
        case Step::kSizeLf:
            return step_size(c);
        case Step::kDataCr:
            if (c != '\r') return fail(Problem::kChunk);
            step_ = Step::kDataLf;
            return;
        case Step::kDataLf:
            if (c != '\n') return fail(Problem::kChunk);
            step_ = Step::kSizeFirst;
            line_bytes_ = 0;
            return;
        default:
            return step_trailer(c);
    }
}

void BodyReader::step_size(char c) noexcept {
    if (++line_bytes_ > kMaxSizeLine) return fail(Problem::kChunk);
    if (step_ == Step::kSizeLf) {
        if (c != '\n') return fail(Problem::kChunk);
        step_ = left_ > 0 ? Step::kData : Step::kTrailerFirst;
        return;
    }
    if (step_ == Step::kSizeFirst) {
        left_ = 0;
        digits_ = 0;
        if (hex(c) < 0) return fail(Problem::kChunk);
        step_ = Step::kSize;
    }
    if (c == '\r') {
        step_ = Step::kSizeLf;
        return;
    }
    if (step_ == Step::kExtension) {
        if (!is_field_value({&c, 1})) fail(Problem::kChunk);
        return;
    }
    if (c == ';') {
        step_ = Step::kExtension;
        return;
    }
    const int digit = hex(c);
    if (digit < 0 || ++digits_ > kMaxSizeDigits) return fail(Problem::kChunk);
    left_ = left_ * 16 + static_cast<std::uint64_t>(digit);
}

void BodyReader::step_trailer(char c) noexcept {
    if (++trailer_bytes_ > limits_.max_bytes) return fail(Problem::kTooLarge);
    switch (step_) {
        case Step::kTrailerFirst:
            if (c == '\r') {
                step_ = Step::kLastLf;
                return;
            }
            if (++trailers_ > limits_.max_fields) return fail(Problem::kTooLarge);
            name_size_ = 0;
            step_ = Step::kTrailerName;
            [[fallthrough]];
        case Step::kTrailerName:
            if (c == ':') {
                const std::string_view name(name_.data(), std::min(name_size_, name_.size()));
                if (name_size_ == 0 || (name_size_ <= name_.size() && forbidden_in_trailer(name)))
                    return fail(Problem::kTrailer);
                step_ = Step::kTrailerValue;
                return;
            }
            if (!is_token({&c, 1})) return fail(Problem::kTrailer);
            if (name_size_ < name_.size()) name_[name_size_] = c;
            ++name_size_;
            return;
        case Step::kTrailerValue:
            if (c == '\r') {
                step_ = Step::kTrailerLf;
            } else if (!is_field_value({&c, 1})) {
                fail(Problem::kTrailer);
            }
            return;
        case Step::kTrailerLf:
            if (c != '\n') return fail(Problem::kTrailer);
            step_ = Step::kTrailerFirst;
            return;
        default:  // kLastLf
            if (c != '\n') return fail(Problem::kChunk);
            step_ = Step::kDone;
    }
}

}  // namespace mesh::serve::l7
