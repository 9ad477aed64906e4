// libnvrtc.so for tests: it compiles nothing, but looks at what it is given as the real one would.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

namespace {

enum Result : int { SUCCESS = 0, INVALID_INPUT = 3, INVALID_OPTION = 5, COMPILATION = 6 };

struct Program {
    std::vector<std::string> texts;
    std::set<std::string> names;
    std::string log, cubin, ptx;
};

bool is(const char* value) {
    const char* mode = std::getenv("FAKE_NVRTC");
    return mode && std::strcmp(mode, value) == 0;
}

// The headers that a text asks for, but for those of the CPU's build.
std::vector<std::string> includes(const std::string& text) {
    std::vector<std::string> found;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        const size_t start = line.find("#include \"");
        if (start != 0) continue;
        const std::string name = line.substr(10, line.find('"', 10) - 10);
        if (name.rfind("host/", 0) != 0) found.push_back(name);
    }
    return found;
}

constexpr int CHIPS[] = {75, 80, 86, 89, 90, 100, 120};

}  // namespace

API int nvrtcGetNumSupportedArchs(int* count) {
    *count = is("absent") ? 0 : static_cast<int>(sizeof CHIPS / sizeof *CHIPS);
    return SUCCESS;
}

API int nvrtcGetSupportedArchs(int* chips) {
    if (!is("absent")) std::memcpy(chips, CHIPS, sizeof CHIPS);
    return SUCCESS;
}

API int nvrtcCreateProgram(Program** program, const char* source, const char*, int count, const char* const* texts,
                           const char* const* names) {
    Program* made = new Program;
    made->texts.push_back(source);
    for (int i = 0; i < count; i++) {
        made->texts.push_back(texts[i]);
        made->names.insert(names[i]);
    }
    *program = made;
    return SUCCESS;
}

API int nvrtcDestroyProgram(Program** program) {
    delete *program;
    *program = nullptr;
    return SUCCESS;
}

API int nvrtcCompileProgram(Program* program, int count, const char* const* options) {
    std::set<std::string> given(options, options + count);
    std::string target;
    for (const std::string& option : given) {
        const std::string architecture = "--gpu-architecture=";
        if (option.rfind(architecture, 0) == 0) target = option.substr(architecture.size());
    }
    for (const char* needed : {"-fmad=false", "-ftz=false", "-prec-div=true", "-prec-sqrt=true"}) {
        if (!given.count(needed)) program->log += std::string("without ") + needed + "\n";
    }
    if (target.empty() || !program->log.empty()) return INVALID_OPTION;
    for (const std::string& text : program->texts) {
        for (const std::string& name : includes(text)) {
            if (!program->names.count(name)) program->log += "could not open source file \"" + name + "\"\n";
        }
    }
    if (is("error")) program->log += "sample.cu(1): error: as asked for\n";
    if (!program->log.empty()) return COMPILATION;
    const size_t digits = target.find_first_of("0123456789");
    program->ptx = "//\n.version 9.0\n.target sm_" + target.substr(digits) + "\n";
    if (target.rfind("sm_", 0) == 0) program->cubin = "\x7f" "ELF, a fake for " + target;
    return SUCCESS;
}

API int nvrtcGetProgramLogSize(Program* program, size_t* bytes) {
    *bytes = program->log.size() + 1;
    return SUCCESS;
}
API int nvrtcGetProgramLog(Program* program, char* log) {
    std::memcpy(log, program->log.c_str(), program->log.size() + 1);
    return SUCCESS;
}
API int nvrtcGetCUBINSize(Program* program, size_t* bytes) {
    *bytes = program->cubin.size();
    return program->cubin.empty() ? INVALID_INPUT : SUCCESS;
}
API int nvrtcGetCUBIN(Program* program, char* image) {
    std::memcpy(image, program->cubin.data(), program->cubin.size());
    return SUCCESS;
}
API int nvrtcGetPTXSize(Program* program, size_t* bytes) {
    *bytes = program->ptx.size() + 1;
    return SUCCESS;
}
API int nvrtcGetPTX(Program* program, char* image) {
    std::memcpy(image, program->ptx.c_str(), program->ptx.size() + 1);
    return SUCCESS;
}
