// The ip keys of a remote that stand behind one row of the tables. A row is a prefix without host
// bits; 10.7.3.0/24, 10.7.3.5/24 and 10.7.3.9/24 are three keys of one row, and so are 10.7.2.1 and
// 10.7.2.1/32. The row is what its plain key says, else what the first of the others says; it goes
// with the last of them. Only entries under other keys than the plain one are held here, since
// nearly all keys are plain. Used by intake.cpp.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <string_view>
#include <vector>

#include "model/ip.hpp"
#include "model/types.hpp"
#include "state/tables/changes.hpp"

namespace mesh::state {

/// What names an ip entry: the last part of its key, and so an address with or without a length.
struct IpName {
    static constexpr std::uint8_t kNoLength = 255;

    model::IpAddress ip;              ///< with host bits
    std::uint8_t length = kNoLength;  ///< of the family

    /// The name that the value's fields make. @param pair a length beyond the family's is cut
    [[nodiscard]] static IpName of(const model::IpIdentityPair& pair);
    /// From the last part of a key; none if it is not written as of() would be, character by
    /// character: such a key is another one, and nothing is ever accepted under it.
    [[nodiscard]] static std::optional<IpName> parse(std::string_view tail);
    /// The name of the row's plain key: as a host entry if it is one.
    [[nodiscard]] static IpName plain(const model::IpPrefix& row);
    [[nodiscard]] model::IpPrefix row() const;
    friend auto operator<=>(const IpName&, const IpName&) = default;
};

/// @thread one thread
class IpRows {
  public:
    /// An entry came into force, anew or again.
    /// @param plain_held whether the row's plain key is another than this one, and in force
    /// @param out the change of the row is appended, if there is one
    void put(const IpName& name, model::IpIdentityPair&& pair, bool plain_held,
             std::vector<ClusterChange>& out);
    /// An entry went. Parameters as above.
    void erase(const IpName& name, bool plain_held, std::vector<ClusterChange>& out);

  private:
    std::map<model::IpPrefix, std::map<IpName, model::IpIdentityPair>> others_;
};

}  // namespace mesh::state
