//! How far an agent's wall clock is from the coordinator's. Worth knowing, because people compare the logs of both; nothing
//! is computed from it.

/// A difference beyond this is written down, and so is a change of it. What a message takes on its way is far less.
const WORTH_A_WORD_NS: u64 = 2_000_000_000;

/// What is known of one agent's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Skew {
    /// Nanoseconds that it was ahead when it was heard of last; `None` for an agent that does not say.
    pub(crate) ahead_ns: Option<i64>,
    /// What was written down last.
    written_ns: i64,
}

impl Skew {
    /// A message has come. Returns what is to be written down, if anything.
    pub(crate) fn heard(&mut self, ahead_ns: Option<i64>) -> Option<i64> {
        self.ahead_ns = ahead_ns;
        let ahead_ns = ahead_ns.filter(|now| now.abs_diff(self.written_ns) > WORTH_A_WORD_NS)?;
        self.written_ns = ahead_ns;
        Some(ahead_ns)
    }
}

/// How far ahead a clock is that says this; 0 comes from an agent that does not say.
pub(crate) fn ahead(said_unix_ns: i64, here_unix_ns: i64) -> Option<i64> {
    (said_unix_ns != 0).then(|| said_unix_ns.saturating_sub(here_unix_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000_000;

    #[test]
    fn what_is_far_off_and_what_jumps_is_written_down_once() {
        let mut skew = Skew::default();
        let heard = [Some(1000), Some(-1_500_000_000), Some(HOUR), Some(HOUR - 1_000_000), None, Some(HOUR), Some(5)];
        let written: Vec<_> = heard.into_iter().map(|ahead| skew.heard(ahead)).collect();
        assert_eq!(written, [None, None, Some(HOUR), None, None, None, Some(5)]);
    }

    #[test]
    fn no_clock_is_too_far_off() {
        assert_eq!(ahead(0, 17), None);
        assert_eq!(ahead(10, 17), Some(-7));
        assert_eq!(ahead(i64::MIN, i64::MAX), Some(i64::MIN));
        assert_eq!(Skew::default().heard(Some(i64::MIN)), Some(i64::MIN));
    }
}
