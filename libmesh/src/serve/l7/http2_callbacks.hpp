// What Http2Filter needs of its nghttp2 callbacks. Internal to l7/.
#pragma once

#include <nghttp2/nghttp2.h>

#include <vector>

#include "serve/l7/http2_filter.hpp"

namespace mesh::serve::l7 {

/// Views of the fields, as nghttp2 takes them.
[[nodiscard]] std::vector<nghttp2_nv> to_nv(const std::vector<Http2Field>& fields);

struct Http2Glue {
    /// Reads up or down, by the session it is given to.
    [[nodiscard]] static nghttp2_data_provider body_of(Http2Stream& stream);
    /// @param server_role towards the client @return nullptr: no memory
    [[nodiscard]] static nghttp2_session* make_session(Http2Filter& filter, bool server_role);
};

}  // namespace mesh::serve::l7
