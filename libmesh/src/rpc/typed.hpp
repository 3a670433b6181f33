// Handlers that take and give Protobuf messages, for services whose answer is known at once.
#pragma once

#include <string_view>
#include <utility>

#include "rpc/server.hpp"

namespace mesh::rpc {

/// Registers a unary method: parse, call, answer.
/// @param handler Status(const ServerCallPtr&, const Request&, Response&), called on the loop; the
/// response is sent when it returns OK
template <class Request, class Response, class Handler>
void handle_typed(Server& server, std::string_view path, Handler handler) {
    server.handle_unary(
        path, [handler = std::move(handler)](const ServerCallPtr& call, std::string_view bytes) {
            Request request;
            if (!request.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) {
                call->finish(
                    {StatusCode::kInvalidArgument, "the request is no valid message of its type"});
                return;
            }
            Response response;
            Status status = handler(call, static_cast<const Request&>(request), response);
            if (status.ok()) {
                call->reply(encode_frame(response));
            } else {
                call->finish(std::move(status));
            }
        });
}

}  // namespace mesh::rpc
