//! How large a change has to be to count.

use std::str::FromStr;

use regatta_core::id::shown;

use crate::exit::BadInput;

/// Percent above 0 and up to 100, as a share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Threshold(f64);

impl Threshold {
    /// 0.02 for 2 %.
    pub(crate) fn share(self) -> f64 {
        self.0
    }
}

impl FromStr for Threshold {
    type Err = BadInput;

    fn from_str(text: &str) -> Result<Self, BadInput> {
        let number = text.strip_suffix('%').unwrap_or(text).trim_end();
        let percent = number.parse::<f64>().ok().filter(|percent| *percent > 0.0 && *percent <= 100.0);
        let invalid =
            || format!("'{}' is no threshold: write percent above 0 and up to 100, such as 2 or 0.5", shown(text));
        percent.map(|percent| Self(percent / 100.0)).ok_or_else(|| BadInput(invalid()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_percent_above_0_and_up_to_100() {
        for (text, share) in [("2", 0.02), ("0.5", 0.005), ("100", 1.0), ("3%", 0.03), ("3 %", 0.03)] {
            assert!((text.parse::<Threshold>().unwrap().0 - share).abs() < 1e-12, "{text}");
        }
        for text in ["0", "-1", "100.1", "NaN", "inf", "two", "", "1e999", "2%%"] {
            let error = text.parse::<Threshold>().unwrap_err().to_string();
            assert!(error.contains("above 0 and up to 100"), "{text}: {error}");
        }
    }
}
