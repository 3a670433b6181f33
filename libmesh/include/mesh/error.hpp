// Errors of libmesh: codes that tell the caller what to do, and Result<T>, which cannot be dropped
// by mistake. Every part of the library reports failure through these; exceptions are for
// programming errors and allocation failure only.
#pragma once

#include <boost/system/result.hpp>
#include <cstdint>
#include <mesh/export.hpp>
#include <string>
#include <string_view>
#include <utility>

namespace mesh {

/// @addtogroup cpp_errors
/// @{

/// What the caller should do about a failure. Few on purpose: the cause goes into Error::detail.
enum class Errc : std::uint8_t {
    kInvalidArgument = 1,  ///< the input is wrong; do not retry
    kNotFound,             ///< no such object
    kUnavailable,          ///< the other side cannot be reached; retry
    kCompacted,            ///< the revision is gone; list again
    kConflict,             ///< somebody else was first; read again, then decide
    kCapacity,             ///< a bound was reached; reduce or raise the bound
    kPermission,           ///< refused; do not retry with the same credentials
    kCorrupt,              ///< stored or received bytes make no sense
    kCancelled,            ///< the caller or a shutdown cancelled it
    kTimeout,              ///< the deadline passed; the outcome is unknown
    kInternal,             ///< a defect of ours
};

/// The code's name as shown to people and in JSON, e.g. "not_found".
[[nodiscard]] constexpr std::string_view to_string(Errc code) noexcept {
    switch (code) {
        case Errc::kInvalidArgument:
            return "invalid_argument";
        case Errc::kNotFound:
            return "not_found";
        case Errc::kUnavailable:
            return "unavailable";
        case Errc::kCompacted:
            return "compacted";
        case Errc::kConflict:
            return "conflict";
        case Errc::kCapacity:
            return "capacity";
        case Errc::kPermission:
            return "permission";
        case Errc::kCorrupt:
            return "corrupt";
        case Errc::kCancelled:
            return "cancelled";
        case Errc::kTimeout:
            return "timeout";
        case Errc::kInternal:
            return "internal";
    }
    return "unknown";
}

/// A failure: the code and one sentence that names the file, key or field and what was expected.
/// @thread any thread (a plain value)
class [[nodiscard]] Error {
  public:
    /// Only for boost::system::result, which makes one where there is no error.
    Error() : code_(Errc::kInternal), detail_("no error") {}
    /// @param code what the caller should do
    /// @param detail one sentence: what was wrong, and what was expected
    Error(Errc code, std::string detail) : code_(code), detail_(std::move(detail)) {}

    /// What the caller should do.
    [[nodiscard]] Errc code() const noexcept { return code_; }
    /// The sentence, for people.
    [[nodiscard]] const std::string& detail() const noexcept { return detail_; }

    /// "not_found: <detail>".
    [[nodiscard]] std::string message() const {
        std::string text(to_string(code_));
        if (!detail_.empty()) text.append(": ").append(detail_);
        return text;
    }

    /// The same error with "<prefix>: " before its detail, for a caller that knows more.
    [[nodiscard]] Error with_prefix(std::string_view prefix) const {
        return Error(code_, std::string(prefix).append(": ").append(detail_));
    }

    friend bool operator==(const Error&, const Error&) = default;

  private:
    Errc code_;
    std::string detail_;
};

/// Called by boost::system::result when value() is used on an error: a programming error.
[[noreturn]] MESH_API void throw_exception_from_error(const Error& error,
                                                      const boost::source_location& where);

/// A value or an Error. Test with has_value() or bool; never call value() unchecked.
/// Differs from boost::system::result in being nodiscard.
template <class T>
class [[nodiscard]] Result : public boost::system::result<T, Error> {
  public:
    using boost::system::result<T, Error>::result;
};

/// Shorthands for the common codes.
[[nodiscard]] inline Error invalid_argument(std::string detail) {
    return {Errc::kInvalidArgument, std::move(detail)};
}
/// Likewise.
[[nodiscard]] inline Error not_found(std::string detail) {
    return {Errc::kNotFound, std::move(detail)};
}
/// Likewise.
[[nodiscard]] inline Error unavailable(std::string detail) {
    return {Errc::kUnavailable, std::move(detail)};
}
/// Likewise.
[[nodiscard]] inline Error internal(std::string detail) {
    return {Errc::kInternal, std::move(detail)};
}

/// @}

}  // namespace mesh

#define MESH_DETAIL_CONCAT2(a, b) a##b
#define MESH_DETAIL_CONCAT(a, b) MESH_DETAIL_CONCAT2(a, b)
#define MESH_DETAIL_TRY(ret, tmp, decl, ...) \
    auto tmp = (__VA_ARGS__);                \
    if (!tmp) ret std::move(tmp).error();    \
    decl = *std::move(tmp)
/// @addtogroup cpp_errors
/// @{

/// MESH_TRY(auto x, f()) declares x from f()'s value, or returns f()'s error from the function.
#define MESH_TRY(decl, ...) \
    MESH_DETAIL_TRY(return, MESH_DETAIL_CONCAT(mesh_try_, __LINE__), decl, __VA_ARGS__)
/// The same in a coroutine.
#define MESH_CO_TRY(decl, ...) \
    MESH_DETAIL_TRY(co_return, MESH_DETAIL_CONCAT(mesh_try_, __LINE__), decl, __VA_ARGS__)
/// The same for Result<void>.
#define MESH_CHECK(...)                                                 \
    do {                                                                \
        if (auto mesh_check_result = (__VA_ARGS__); !mesh_check_result) \
            return std::move(mesh_check_result).error();                \
    } while (false)
/// The same for Result<void> in a coroutine.
#define MESH_CO_CHECK(...)                                              \
    do {                                                                \
        if (auto mesh_check_result = (__VA_ARGS__); !mesh_check_result) \
            co_return std::move(mesh_check_result).error();             \
    } while (false)

/// @}
