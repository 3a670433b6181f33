#include "serve/dns/fqdn_tracker.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <boost/asio/io_context.hpp>
#include <filesystem>

#include "pki/files.hpp"

namespace mesh::serve::dns {
namespace {

using model::IpAddress;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

IpAddress ip(std::uint8_t last) {
    return IpAddress::v4(10, 0, 0, last);
}

class FqdnTrackerTest : public ::testing::Test {
  protected:
    FqdnTrackerTest() {
        std::string name = ::testing::TempDir() + "/fqdn-tracker-XXXXXX";
        folder_ = ::mkdtemp(name.data());
        options_.file = folder_ / "names";
        options_.save_interval = std::chrono::milliseconds(1);
    }
    ~FqdnTrackerTest() override { std::filesystem::remove_all(folder_); }

    std::unique_ptr<FqdnTracker> make() {
        FqdnTrackerCallbacks callbacks;
        callbacks.on_change = [this](const SelectorChanges& changes, std::function<void()> done) {
            changes_.push_back(changes);
            in_force_.push_back(std::move(done));
        };
        callbacks.connections = [this] {
            ++looks_;
            return [this](EndpointId, const IpAddress&) { return alive_; };
        };
        auto tracker = std::make_unique<FqdnTracker>(
            context_.get_executor(), clock_,
            Logger("t", [this](LogLevel, std::string_view,
                               std::string_view text) { log_ += std::string(text) + "\n"; }),
            options_, callbacks);
        tracker->start();
        return tracker;
    }
    void learn(FqdnTracker& tracker, std::string name, std::uint8_t last) {
        const auto index = told_.size();
        told_.push_back(false);
        tracker.learn({1, std::move(name), {ip(last)}, seconds(60)},
                      [this, index] { told_[index] = true; });
    }
    void run() {
        context_.restart();
        while (context_.poll() > 0) {
        }
    }

    ManualClock clock_;
    boost::asio::io_context context_{1};
    std::filesystem::path folder_;
    FqdnTrackerOptions options_;
    std::vector<SelectorChanges> changes_;
    std::vector<std::function<void()>> in_force_;
    std::vector<bool> told_;
    std::string log_;
    int looks_ = 0;
    bool alive_ = false;
};

TEST_F(FqdnTrackerTest, AnAnswerWaitsForItsChange) {
    const auto tracker = make();
    EXPECT_THAT(tracker->add_selector({"a.com", {}}), IsEmpty());
    learn(*tracker, "a.com", 1);
    EXPECT_THAT(changes_, ElementsAre(ElementsAre(SelectorChange{"a.com", {ip(1)}, {}})));
    run();
    EXPECT_THAT(told_, ElementsAre(false));
    in_force_[0]();
    run();
    EXPECT_THAT(told_, ElementsAre(true));
    // Known, and in force: nothing to wait for.
    learn(*tracker, "a.com", 1);
    EXPECT_THAT(told_, ElementsAre(true, true));
    tracker->stop();
}

TEST_F(FqdnTrackerTest, AnAnswerWaitsForChangesBeforeIt) {
    const auto tracker = make();
    tracker->add_selector({{}, "*.com"});
    learn(*tracker, "a.com", 1);
    learn(*tracker, "a.com", 1);  // changes nothing, but what it needs is not in force yet
    learn(*tracker, "b.com", 2);
    ASSERT_THAT(in_force_, SizeIs(2));
    in_force_[1]();
    run();
    EXPECT_THAT(told_, ElementsAre(false, false, false));
    in_force_[0]();
    run();
    EXPECT_THAT(told_, ElementsAre(true, true, true));
    learn(*tracker, "c.com", 3);
    learn(*tracker, "d.com", 4);
    in_force_[2]();
    run();
    EXPECT_THAT(told_, ElementsAre(true, true, true, true, false));
    tracker->stop();
    in_force_[3]();
    run();
    EXPECT_FALSE(told_[4]);
}

TEST_F(FqdnTrackerTest, ExpiredAddressesAreTold) {
    const auto tracker = make();
    tracker->add_selector({"a.com", {}});
    learn(*tracker, "a.com", 1);
    clock_.advance(seconds(60));
    tracker->tick();
    EXPECT_EQ(looks_, 0);  // nothing to ask for yet
    alive_ = true;
    clock_.advance(seconds(60));
    tracker->tick();
    EXPECT_EQ(looks_, 1);
    EXPECT_THAT(changes_, SizeIs(1));
    alive_ = false;
    clock_.advance(seconds(60));
    tracker->tick();
    EXPECT_THAT(changes_.back(), ElementsAre(SelectorChange{"a.com", {}, {ip(1)}}));
    tracker->stop();
}

TEST_F(FqdnTrackerTest, AnEndpointThatGoesIsTold) {
    const auto tracker = make();
    tracker->add_selector({"a.com", {}});
    learn(*tracker, "a.com", 1);
    tracker->remove_endpoint(1);
    EXPECT_THAT(changes_.back(), ElementsAre(SelectorChange{"a.com", {}, {ip(1)}}));
    tracker->stop();
}

TEST_F(FqdnTrackerTest, TheNextOneKnowsWhatThisOneLearnt) {
    {
        const auto tracker = make();
        learn(*tracker, "a.com", 1);
        // By its timer, long before the end.
        const auto deadline = std::chrono::steady_clock::now() + seconds(30);
        while (!std::filesystem::exists(options_.file)) {
            ASSERT_LT(std::chrono::steady_clock::now(), deadline);
            context_.restart();
            context_.run_one_for(std::chrono::milliseconds(100));
        }
        learn(*tracker, "b.com", 2);
        tracker->stop();
    }
    const auto tracker = make();
    EXPECT_THAT(tracker->add_selector({{}, "*.com"}), ElementsAre(ip(1), ip(2)));
    EXPECT_THAT(changes_, IsEmpty());
    EXPECT_THAT(log_, HasSubstr("2 addresses"));
    tracker->stop();
}

TEST_F(FqdnTrackerTest, AFileOfNonsenseIsToldAndKeptAside) {
    ASSERT_TRUE(pki::write_file(options_.file, "nonsense\n", pki::FileMode::kPrivate));
    const auto tracker = make();
    EXPECT_THAT(log_, HasSubstr("names learnt before are lost"));
    EXPECT_TRUE(std::filesystem::exists(options_.file + ".bad"));
    learn(*tracker, "a.com", 1);
    tracker->stop();
    EXPECT_TRUE(std::filesystem::exists(options_.file));
}

TEST_F(FqdnTrackerTest, AFileThatCannotBeWrittenIsToldOnce) {
    options_.file = folder_ / "no" / "such";
    const auto tracker = make();
    learn(*tracker, "a.com", 1);
    tracker->stop();
    EXPECT_THAT(log_, HasSubstr("names are not kept"));
}

}  // namespace
}  // namespace mesh::serve::dns
