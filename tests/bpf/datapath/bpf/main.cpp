// Runs the tests in a child process with a cgroup, a mount namespace and a scratch directory of its
// own, and removes these whatever becomes of the child.
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>

#include "test_node.hpp"

namespace mesh::test {
int writer_main(int argc, char** argv);  // adoption_test.cpp
}

namespace {

constexpr int kSkipped = 77;

int skip(const std::string& why) {
    std::cerr << "SKIPPED: " << why << "\n";
    return kSkipped;
}

std::string cgroup2_mount() {
    std::ifstream mounts("/proc/self/mounts");
    for (std::string line; std::getline(mounts, line);) {
        std::istringstream words(line);
        std::string device, path, type;
        words >> device >> path >> type;
        if (type == "cgroup2") return path;
    }
    return {};
}

int run_tests(const mesh::test::Place& place, int argc, char** argv) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    // Mounts of the tests are seen by nobody else and go with this process.
    if (::unshare(CLONE_NEWNS) != 0 ||
        ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
        return skip("cannot make a mount namespace");
    }
    std::ofstream(place.cgroup + "/cgroup.procs") << ::getpid() << std::flush;
    mesh::test::set_place(place);
    if (const auto opened = mesh::datapath::BpfDatapath::open(mesh::test::node_options());
        !opened) {
        const auto code = opened.error().code();
        if (code == mesh::Errc::kPermission) return skip(opened.error().message());
        std::cerr << opened.error().message() << "\n";
        return 1;
    }
    if (!mesh::datapath::BpfDatapath::teardown(mesh::test::node_options())) return 1;
    ::testing::InitGoogleTest(&argc, argv);
    return RUN_ALL_TESTS();
}

bool remove_cgroup(const std::string& path) {
    for (int i = 0; i < 200; ++i) {
        std::ofstream(path + "/cgroup.kill") << 1 << std::flush;
        if (::rmdir(path.c_str()) == 0 || errno == ENOENT) return true;
        std::this_thread::sleep_for(std::chrono::milliseconds(25));
    }
    return false;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc > 1 && std::string(argv[1]) == "--writer") return mesh::test::writer_main(argc, argv);
    if (::geteuid() != 0) return skip("these tests need root");
    const std::string mount = cgroup2_mount();
    if (mount.empty()) return skip("no cgroup v2 hierarchy is mounted");

    const std::string name = "mesh-bpf-test-" + std::to_string(::getpid());
    std::string scratch = (std::filesystem::temp_directory_path() / (name + ".XXXXXX")).string();
    if (::mkdtemp(scratch.data()) == nullptr) return skip("no place for temporary files");
    const mesh::test::Place place{mount + "/" + name, scratch,
                                  std::filesystem::read_symlink("/proc/self/exe").string()};
    int status = kSkipped << 8;
    if (::mkdir(place.cgroup.c_str(), 0755) != 0) {
        skip("cannot make " + place.cgroup);
    } else {
        for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::signal(signal, [](int) {});
        const pid_t child = ::fork();
        if (child == 0) {
            for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::signal(signal, SIG_DFL);
            std::exit(run_tests(place, argc, argv));
        }
        while (::waitpid(child, &status, 0) < 0 && errno == EINTR) ::kill(child, SIGKILL);
        if (!remove_cgroup(place.cgroup)) {
            std::cerr << "cannot remove " << place.cgroup << "\n";
            status = 1 << 8;
        }
    }
    std::filesystem::remove_all(scratch);
    if (WIFSIGNALED(status)) {
        std::cerr << "killed by signal " << WTERMSIG(status) << "\n";
        return 1;
    }
    return WEXITSTATUS(status);
}
