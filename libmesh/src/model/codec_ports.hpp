// Port maps of services: {"http":{"Protocol":"TCP","Port":80}} (wire.md §5), shared by the codecs
// of services. Used by this folder only.
#pragma once

#include <optional>
#include <vector>

#include "model/json_reader.hpp"
#include "model/json_writer.hpp"
#include "model/types.hpp"

namespace mesh::model {

/// Reads port maps. Of the maps that follow each other in a service nearly all are equal: those
/// share one block, and the same text is not read twice. One reader serves one value. @thread one
/// reader, one thread
class PortMapReader {
  public:
    /// @param out sorted by name; null is SharedList::null()
    [[nodiscard]] bool read(JsonReader& in, SharedList<ServicePort>& out);

  private:
    std::vector<ServicePort> ports_;
    SharedList<ServicePort> last_;
    std::string_view last_text_;  ///< of last_, in the value that is read
};

/// Sorts by name; of equal names the one that stood last stays.
void sort_ports(std::vector<ServicePort>& ports);

/// Writes a port map.
void write_port_map(JsonWriter& out, const SharedList<ServicePort>& ports);

}  // namespace mesh::model
