// Addresses of ours as Asio has them. Internal to this folder.
#pragma once

#include <algorithm>
#include <boost/asio/ip/address.hpp>

#include "model/ip.hpp"

namespace mesh::sources::health {

[[nodiscard]] inline boost::asio::ip::address to_asio(const model::IpAddress& address) {
    if (address.is_v4()) return boost::asio::ip::address_v4(address.v4_number());
    boost::asio::ip::address_v6::bytes_type bytes;
    std::copy(address.bytes().begin(), address.bytes().end(), bytes.begin());
    return boost::asio::ip::address_v6(bytes);
}

}  // namespace mesh::sources::health
