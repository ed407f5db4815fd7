//! The host's labels where there is no `uname`.

/// Not known.
pub(super) fn kernel() -> Option<String> {
    None
}

/// The host's name, from the environment.
pub(super) fn name() -> Option<String> {
    std::env::var("COMPUTERNAME").ok().filter(|name| !name.is_empty())
}
