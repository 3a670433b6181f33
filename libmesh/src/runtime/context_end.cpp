#include "runtime/context_end.hpp"

#include <atomic>
#include <boost/asio/execution/context.hpp>
#include <boost/asio/execution_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/query.hpp>
#include <boost/asio/steady_timer.hpp>

namespace mesh {

namespace asio = boost::asio;

namespace {

/// Services end in the reverse order of their making, all before the first is destroyed: this one,
/// made after those that hold handlers, is told first.
class EndMark final : public asio::execution_context::service {
  public:
    using key_type = EndMark;
    static asio::execution_context::id id;

    explicit EndMark(asio::execution_context& context) : service(context) {}
    [[nodiscard]] bool ending() const noexcept { return ending_; }

  private:
    void shutdown() override { ending_ = true; }
    std::atomic<bool> ending_{false};
};

asio::execution_context::id EndMark::id;

}  // namespace

void watch_for_end(const asio::any_io_executor& executor) {
    const asio::steady_timer timer(executor);
    const asio::ip::tcp::resolver resolver(executor);
    const asio::ip::tcp::socket socket(executor);
    const asio::posix::stream_descriptor descriptor(executor);
    asio::use_service<EndMark>(asio::query(executor, asio::execution::context));
}

bool is_ending(const asio::any_io_executor& executor) noexcept {
    auto& context = asio::query(executor, asio::execution::context);
    return asio::has_service<EndMark>(context) && asio::use_service<EndMark>(context).ending();
}

}  // namespace mesh
