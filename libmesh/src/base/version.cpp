#include <mesh/version.hpp>

namespace mesh {

const char* version() noexcept {
    return MESH_VERSION;
}

}  // namespace mesh
