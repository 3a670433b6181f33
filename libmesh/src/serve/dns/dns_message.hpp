// What a DNS proxy has to understand of DNS messages: the question of a query, and the addresses
// that an answer gives for it. Everything else passes as it is. Never trusts its input: no message
// makes it read beyond its end or work more than its size allows.
//
// Names are text in lower case without the dot at the end, "" is the root; a byte that is no
// letter, digit, '-' or '_' is written "\ddd" (RFC 4343), so that a dot always parts two labels.
// @source RFC 1035 §4, RFC 6891 (EDNS), RFC 8914 (extended errors)
#pragma once

#include <cstddef>
#include <cstdint>
#include <mesh/error.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/ip.hpp"

namespace mesh::serve::dns {

using Bytes = std::vector<std::uint8_t>;
using BytesView = std::span<const std::uint8_t>;

/// Any number may be in it; those that the proxy treats in a way of their own have names.
enum class RecordType : std::uint16_t {
    kA = 1,
    kCname = 5,
    kAaaa = 28,
    kOpt = 41,
    kIxfr = 251,
    kAxfr = 252,
    kAny = 255,
};
/// "A", "AAAA", "HTTPS", ...; "TYPE1234" (RFC 3597) where it has no name here.
[[nodiscard]] std::string to_string(RecordType type);

/// The 4 bits of the header.
enum class ResponseCode : std::uint8_t {
    kNoError = 0,
    kFormatError = 1,
    kServerFailure = 2,
    kNameError = 3,
    kNotImplemented = 4,
    kRefused = 5,
};
/// "NOERROR", "NXDOMAIN", "REFUSED", ...; "RCODE11" where it has no name here.
[[nodiscard]] std::string to_string(ResponseCode code);

/// A header and one question.
struct Query {
    std::uint16_t id = 0;
    std::string name;
    RecordType type = RecordType::kA;
    std::uint16_t class_ = 1;
    bool recursion_desired = false;
    bool checking_disabled = false;
    std::size_t question_end = 0;  ///< offset behind the question
    bool edns = false;             ///< has an OPT record
    bool dnssec_ok = false;        ///< its DO bit
};

/// What an answer says about the question's name.
struct Answer {
    ResponseCode code = ResponseCode::kNoError;
    bool truncated = false;
    /// Of A and AAAA records of the name, or of the name that its CNAMEs lead to; in their order,
    /// each once. Records of other names count for nothing.
    std::vector<model::IpAddress> addresses;
    /// Seconds; the least of all records on the way to the addresses. 0 without addresses.
    std::uint32_t ttl = 0;
};

/// Smallest message.
inline constexpr std::size_t kHeaderBytes = 12;

/// The transaction id. @param message at least a header
[[nodiscard]] std::uint16_t id_of(BytesView message) noexcept;
void set_id(std::span<std::uint8_t> message, std::uint16_t id) noexcept;

/// Reads a query whole. It must be one that a server cannot understand in another way: opcode
/// QUERY, one question, no answers, nothing behind its last record.
/// @errors kInvalidArgument
[[nodiscard]] Result<Query> parse_query(BytesView message);

/// Reads the answer to a query. The transaction id is not looked at.
/// @errors kInvalidArgument: malformed, not an answer, or to another question (the case of letters
///         does not count)
/// @complexity O(bytes of the message × longest name)
[[nodiscard]] Result<Answer> parse_answer(BytesView message, const Query& query);

/// An answer of ours without records, the question as it was asked. `prohibited` adds the extended
/// error "Prohibited", if the query has EDNS.
[[nodiscard]] Bytes make_answer(BytesView query_message, const Query& query, ResponseCode code,
                                bool prohibited = false);
/// The answer to something that looks like a query but could not be read: a bare header.
/// @return empty if it is no query: nothing is to be answered
[[nodiscard]] Bytes make_format_error(BytesView message);

/// A name of any text form ("Example.COM.") as it is here. @errors kInvalidArgument
[[nodiscard]] Result<std::string> parse_name(std::string_view text);

}  // namespace mesh::serve::dns
