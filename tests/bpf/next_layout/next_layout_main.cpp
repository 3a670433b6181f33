// An owner of the datapath whose layouts are the next ones: opens, prints what it adopted, ends.
//   datapath_next_layout pods <bpffs> <pin directory> <max ipcache> [<prefix> ...]
//   datapath_next_layout services <bpffs> <pin directory> <cgroup> [<most services>]
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "../datapath/bpf/contents.hpp"

namespace {

int fail(const mesh::Error& error) {
    std::fprintf(stderr, "%s\n", error.message().c_str());
    return 1;
}

int pods(const std::vector<std::string>& words) {
    mesh::datapath::BpfPodsOptions options;
    options.bpffs = words[1];
    options.pin_directory = words[2];
    options.max_ipcache = static_cast<std::uint32_t>(std::stoul(words[3]));
    const auto opened = mesh::datapath::BpfPods::open(options);
    if (!opened) return fail(opened.error());
    std::fputs(mesh::test::contents_of(**opened, {words.begin() + 4, words.end()}).c_str(), stdout);
    return 0;
}

int services(const std::vector<std::string>& words) {
    mesh::datapath::BpfOptions options;
    options.bpffs = words[1];
    options.pin_directory = words[2];
    options.cgroup = words[3];
    options.sizes = {8192, 65536, 131072};
    if (words.size() > 4) options.sizes.services = static_cast<std::uint32_t>(std::stoul(words[4]));
    const auto opened = mesh::datapath::BpfDatapath::open(options);
    if (!opened) return fail(opened.error());
    std::fputs(mesh::test::contents_of(**opened).c_str(), stdout);
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    const std::vector<std::string> words(argv + 1, argv + argc);
    if (words.size() >= 4 && words[0] == "pods") return pods(words);
    if (words.size() >= 4 && words[0] == "services") return services(words);
    std::fputs("usage: see next_layout_main.cpp\n", stderr);
    return 2;
}
