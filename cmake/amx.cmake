# Included by CMake right after llama.cpp's own project() line. Mends AMX for compilers that break it; the header says how.
function(regatta_mend_amx)
  if(TARGET ggml-cpu)
    set(header "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/amx_tile_config.h")
    target_compile_options(ggml-cpu PRIVATE "$<$<COMPILE_LANG_AND_ID:CXX,GNU>:SHELL:-include \"${header}\">")
  endif()
endfunction()
cmake_language(DEFER CALL regatta_mend_amx)
