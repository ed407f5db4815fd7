//! What the processor has, and what this program was compiled for.

use regatta_core::worker::SimdLevel;

/// The instructions the compiler was allowed to use, as it names them.
pub const TARGET_FEATURES: &str = env!("REGATTA_TARGET_FEATURES");

/// Whether this program was compiled with optimisation.
pub const OPTIMISED: bool = !matches!(env!("REGATTA_OPT_LEVEL").as_bytes(), b"0");

/// Threads for an engine when nobody says otherwise: one per physical core that this process may use.
pub fn default_threads() -> u32 {
    u32::try_from(num_cpus::get_physical().min(num_cpus::get())).unwrap_or(1).max(1)
}

/// The level that both engines' kernels were compiled for.
pub fn compiled() -> SimdLevel {
    #[cfg(target_arch = "x86_64")]
    {
        if cfg!(all(target_feature = "avx512f", target_feature = "avx512bw", target_feature = "avx512vl")) {
            SimdLevel::Avx512
        } else if cfg!(all(target_feature = "avx2", target_feature = "fma")) {
            SimdLevel::Avx2
        } else if cfg!(target_feature = "avx") {
            SimdLevel::Avx
        } else {
            SimdLevel::Baseline
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        if cfg!(any(target_feature = "sve", target_feature = "i8mm")) {
            SimdLevel::Avx512
        } else if cfg!(target_feature = "dotprod") {
            SimdLevel::Avx2
        } else {
            SimdLevel::Baseline
        }
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    SimdLevel::Baseline
}

/// The level that this processor has.
pub fn present() -> SimdLevel {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx512f") && has!("avx512bw") && has!("avx512vl") {
            SimdLevel::Avx512
        } else if has!("avx2") && has!("fma") {
            SimdLevel::Avx2
        } else if has!("avx") {
            SimdLevel::Avx
        } else {
            SimdLevel::Baseline
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        use std::arch::is_aarch64_feature_detected as has;
        if has!("sve") || has!("i8mm") {
            SimdLevel::Avx512
        } else if has!("dotprod") {
            SimdLevel::Avx2
        } else {
            SimdLevel::Baseline
        }
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    SimdLevel::Baseline
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_runs_was_not_compiled_for_more_than_there_is() {
        assert!(compiled() <= present());
        assert!(default_threads() >= 1);
    }
}
