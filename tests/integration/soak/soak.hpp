// The soak itself: who reads, who writes, what breaks, and what is compared at the end.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "check.hpp"
#include "etcdctl_watch.hpp"
#include "product_reader.hpp"
#include "reader.hpp"
#include "runtime/task_group.hpp"
#include "world.hpp"
#include "writer.hpp"

namespace mesh::soak {

struct SoakOptions {
    double seconds = 60;
    std::uint64_t seed = 0;
    Duration patience = std::chrono::seconds(120);  ///< for all to be in step at the end
    std::string mesh_proxy = MESH_PROXY;
    std::uint64_t most_rss_mib = 512;               ///< of each proxy, at any time
};

/// @thread the loop's
class Soak {
  public:
    Soak(boost::asio::io_context& loop, const Clock& clock, SoakOptions options);

    /// All of it. @return whether nothing was wrong
    boost::asio::awaitable<bool> run();

  private:
    enum class Step : std::uint8_t {
        kKillEtcd,
        kPauseEtcd,
        kKillMirror,
        kEndMirror,
        kKillEmbedded,
        kCutReaders,
        kCutUpstream,
        kStallLine,
        kStallReaders,
        kDisconnect,
        kCompactEtcd,
        kCompactEmbedded,
    };

    void add_reference();
    void add_mirror_readers();
    void add_product_readers();
    void add_embedded_readers();
    void add_etcdctl();
    Checker& checker(std::string name, Selection selection, History* learns = nullptr);
    [[nodiscard]] Selection selection(bool remote);
    void add_reader(ReaderOptions options);

    boost::asio::awaitable<void> break_things();
    boost::asio::awaitable<void> step(Step what);
    boost::asio::awaitable<void> kill_etcd();
    boost::asio::awaitable<void> pause_etcd();
    boost::asio::awaitable<void> kill(ProxyProcess& proxy, int signal);
    boost::asio::awaitable<void> cut(test::Line& line);
    boost::asio::awaitable<void> stall(test::Line& line);
    boost::asio::awaitable<void> stall_readers();
    boost::asio::awaitable<void> compact_etcd();
    boost::asio::awaitable<void> look_after();
    [[nodiscard]] std::int64_t seen_of(ProxyProcess& proxy) const;
    [[nodiscard]] Duration some(std::int64_t most_ms);

    boost::asio::awaitable<void> settle(std::int64_t fence, std::int64_t embedded_fence);
    [[nodiscard]] std::vector<std::string> behind(std::int64_t fence,
                                                  std::int64_t embedded_fence) const;
    boost::asio::awaitable<void> compare(std::int64_t fence, std::int64_t embedded_fence);
    void print() const;

    boost::asio::io_context& loop_;
    const Clock& clock_;
    SoakOptions options_;
    Rng rng_;
    World world_;
    Report report_;
    History history_, embedded_history_;
    std::deque<Checker> checkers_;
    std::shared_ptr<Reader> reference_;
    std::vector<std::shared_ptr<Reader>> readers_;
    std::vector<std::unique_ptr<ProductReader>> product_readers_;
    std::vector<std::unique_ptr<EtcdctlWatch>> etcdctl_;
    std::shared_ptr<Writer> writer_, second_writer_, embedded_writer_;
    TaskGroup readers_tasks_, writers_tasks_, steps_;
    std::size_t watches_ = 0;
    bool etcd_busy_ = false, ending_ = false;
};

}  // namespace mesh::soak
