# Included by CMake right after llama.cpp's own project() line (see .cargo/config.toml). Halves its compile time.

# Helpers of llama.cpp's own programs (arguments, chat templates, JSON). Regatta calls none of them, but the Rust bindings
# name some; Linux linkers drop what is unreachable before they look for what it needs, other systems' may not.
if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
  set(LLAMA_BUILD_COMMON OFF CACHE BOOL "" FORCE)
endif()

# libllama is 160 small C++ files, one for each model family, around the same large headers. Compiled in groups they
# take a third of the time. ggml, where the kernels are, is still compiled file by file, exactly as upstream does.
cmake_language(DEFER CALL set_target_properties llama PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 24)

include("${CMAKE_CURRENT_LIST_DIR}/amx.cmake")
