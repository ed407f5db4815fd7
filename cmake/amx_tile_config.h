// Included before every source of ggml's CPU kernels (see amx.cmake).
//
// GCC before 11.5, 12.4 and 13.3 tells its optimiser that _tile_loadconfig reads 8 bytes (bug 114098, amxtileintrin.h). The
// instruction reads 64, so the stores of the other 56 are dropped, and llama.cpp's first multiplication with AMX tiles
// ends in a general protection fault. This is the same instruction with its whole operand.
#pragma once

#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>
#undef _tile_loadconfig
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg\t%X0" ::"m"(*(const char(*)[64])(config)))
#endif
