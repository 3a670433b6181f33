// What a CNI plugin answers: the result of ADD and errors, as JSON of the version that the network
// config asks for. Also reads results: those of delegated IPAM plugins, and `prevResult`.
// @source CNI specification 1.0.0, sections 5 (result types), 0.4.0 and 0.3.1 for what differs
#pragma once

#include <array>
#include <boost/json/object.hpp>
#include <boost/system/result.hpp>
#include <cstddef>
#include <cstdint>
#include <mesh/error.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/ip.hpp"

namespace mesh::attach {

/// The versions of the specification that we speak, oldest first.
inline constexpr std::array<std::string_view, 3> kCniVersions{"0.3.1", "0.4.0", "1.0.0"};
[[nodiscard]] bool is_cni_version(std::string_view version);

/// Codes of errors: below 100 the specification's, from 100 ours.
enum class CniCode : std::uint32_t {
    kIncompatibleVersion = 1,
    kUnsupportedField = 2,
    kUnknownContainer = 3,  ///< nothing was made, no DEL is needed
    kBadEnvironment = 4,
    kIo = 5,
    kDecode = 6,
    kBadConfig = 7,
    kTryAgain = 11,
    kLink = 100,   ///< the pod's link could not be made or removed
    kIpam = 101,   ///< addresses could not be given or taken back
    kCheck = 102,  ///< CHECK found something missing
};

/// A failure as the runtime gets it.
struct CniError {
    std::uint32_t code = 0;  ///< a CniCode, or that of a delegated plugin
    std::string message;     ///< names what was wrong and what was expected
    std::string details{};

    CniError() = default;
    CniError(CniCode which, std::string text)
        : code(static_cast<std::uint32_t>(which)), message(std::move(text)) {}
    /// The error's own words.
    CniError(CniCode which, const Error& error) : CniError(which, error.detail()) {}
};

/// A value or a CniError. As Result, with the codes of CNI.
template <class T>
class [[nodiscard]] CniResult : public boost::system::result<T, CniError> {
  public:
    using boost::system::result<T, CniError>::result;
};

struct CniInterface {
    std::string name;
    std::string mac;      ///< may be empty
    std::string sandbox;  ///< the network namespace; "" = the node's
};

struct CniIp {
    model::IpAddress address;
    std::uint8_t length = 0;  ///< of the block it is in
    std::optional<model::IpAddress> gateway{};
    std::optional<std::size_t> interface {};  ///< index into the interfaces
};

struct CniRoute {
    model::IpPrefix destination;
    std::optional<model::IpAddress> gateway{};
};

/// The result of ADD, of us or of an IPAM plugin.
struct CniAddResult {
    std::vector<CniInterface> interfaces{};
    std::vector<CniIp> ips{};
    std::vector<CniRoute> routes{};
    boost::json::object dns{};  ///< handed on as it is
};

/// @param version one of kCniVersions
[[nodiscard]] std::string encode_result(std::string_view version, const CniAddResult& result);
/// @errors kInvalidArgument naming the field
[[nodiscard]] Result<CniAddResult> parse_result(const boost::json::object& object);

[[nodiscard]] std::string encode_error(std::string_view version, const CniError& error);
/// @return nullopt when the text is no CNI error
[[nodiscard]] std::optional<CniError> parse_error(std::string_view text);

}  // namespace mesh::attach
