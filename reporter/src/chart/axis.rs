//! Axes: from a value to a place, and where the ticks are.

use crate::text;
use crate::view::Scale;

/// An axis along a line of pixels.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    start: f64,
    end: f64,
    /// Where zero stands, on an axis of factors.
    zero: Option<f64>,
    /// Values that get a line and a label.
    pub(super) ticks: Vec<f64>,
}

impl Axis {
    /// From zero to a little more than `max`.
    pub(super) fn from_zero(max: f64, start: f64, end: f64, ticks: usize) -> Self {
        let max = if max > 0.0 { max } else { 1.0 };
        let step = nice_step(max / ticks.max(1) as f64);
        let steps = (max / step).ceil().max(1.0);
        Self {
            scale: Scale::Linear,
            low: 0.0,
            high: steps * step,
            start,
            end,
            zero: None,
            ticks: multiples(0.0, steps * step, step),
        }
    }

    /// From a little less than the first value to a little more than the last; `values` in ascending order.
    pub(super) fn around(scale: Scale, values: &[f64], start: f64, end: f64, ticks: usize) -> Self {
        let (first, last) = match (values.first(), values.last()) {
            (Some(first), Some(last)) => (*first, *last),
            _ => (1.0, 10.0),
        };
        if scale == Scale::Linear {
            let margin = ((last - first) * 0.05).max(last.abs() * 0.01);
            let (low, high) = ((first - margin).max(0.0), last + margin);
            let step = nice_step((high - low) / ticks.max(1) as f64);
            let from = (low / step).ceil() * step;
            return Self { scale, low, high, start, end, zero: None, ticks: multiples(from, high, step) };
        }
        // Zero has no logarithm. It gets a place of its own, one doubling below the smallest other value.
        let zero = first <= 0.0;
        let first = values.iter().copied().find(|v| *v > 0.0).map_or(1.0, |v| if zero { v / 2.0 } else { v });
        let margin = (last / first).powf(0.05).max(1.1);
        let (low, high) = (first / margin, last * margin);
        let mut marks = if scale == Scale::Log2 { powers_of_two(low, high, ticks) } else { decimals(low, high, ticks) };
        if zero {
            marks.retain(|mark| *mark > first * 1.001);
            marks.insert(0, 0.0);
            return Self { scale, low, high, start, end, zero: Some(first), ticks: marks };
        }
        Self { scale, low, high, start, end, zero: None, ticks: marks }
    }

    /// The place of a value.
    pub(super) fn at(&self, value: f64) -> f64 {
        let value = self.zero.filter(|_| value <= 0.0).unwrap_or(value);
        let share = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log2 | Scale::Log10 => (value / self.low).ln() / (self.high / self.low).ln(),
        };
        self.start + share.clamp(0.0, 1.0) * (self.end - self.start)
    }
}

/// What is written at a tick.
pub(super) fn label(value: f64) -> String {
    if value >= 1000.0 || (value - value.round()).abs() < 1e-9 {
        return text::grouped(value);
    }
    format!("{value:.6}").trim_end_matches('0').to_owned()
}

/// 1, 2 or 5 times a power of ten, at least `step`.
fn nice_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|f| f * power >= step * 0.999).unwrap_or(10.0);
    factor * power
}

fn multiples(from: f64, to: f64, step: f64) -> Vec<f64> {
    let mut ticks = Vec::new();
    let mut n = 0.0;
    while from + n * step <= to + step * 1e-6 {
        ticks.push(from + n * step);
        n += 1.0;
    }
    ticks
}

/// Powers of two between `low` and `high`, or every second, third … of them so that there are at most `max`.
fn powers_of_two(low: f64, high: f64, max: usize) -> Vec<f64> {
    let (first, last) = (low.log2().ceil(), high.log2().floor());
    let every = ((last - first + 1.0) / max.max(1) as f64).ceil().max(1.0);
    multiples(first, last, every).into_iter().map(f64::exp2).collect()
}

/// Round decimal numbers between `low` and `high`: as many kinds as there is room for.
fn decimals(low: f64, high: f64, max: usize) -> Vec<f64> {
    let decades = || multiples(low.log10().floor(), high.log10().ceil(), 1.0);
    let with = |digits: &[f64]| -> Vec<f64> {
        let all = decades().into_iter().flat_map(|d| digits.iter().map(move |f| f * 10f64.powf(d)));
        all.filter(|v| (low..=high).contains(v)).collect()
    };
    let kinds: [&[f64]; 4] = [&[1.0, 2.0, 3.0, 5.0, 7.0], &[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]];
    kinds.into_iter().map(with).find(|ticks| ticks.len() <= max).unwrap_or_else(|| with(&[1.0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_the_data() {
        let axis = Axis::from_zero(37.0, 100.0, 0.0, 4);
        assert_eq!(axis.ticks, [0.0, 10.0, 20.0, 30.0, 40.0]);
        assert!((axis.at(20.0) - 50.0).abs() < 1e-9);
        assert!((axis.at(0.0) - 100.0).abs() < 1e-9);
        assert!(Axis::from_zero(0.0, 0.0, 1.0, 4).ticks.len() > 2);
    }

    #[test]
    fn lengths_get_powers_of_two() {
        let axis = Axis::around(Scale::Log2, &[32.0, 128.0, 1024.0], 0.0, 100.0, 8);
        assert_eq!(axis.ticks, [32.0, 64.0, 128.0, 256.0, 512.0, 1024.0]);
        let step = axis.at(64.0) - axis.at(32.0);
        assert!((axis.at(128.0) - axis.at(64.0) - step).abs() < 1e-9);
        let wide = Axis::around(Scale::Log2, &[1.0, 65536.0], 0.0, 100.0, 6);
        assert!(wide.ticks.len() <= 6 && wide.ticks.len() >= 3, "{:?}", wide.ticks);
    }

    #[test]
    fn zero_stands_one_doubling_below_the_smallest_length() {
        let axis = Axis::around(Scale::Log2, &[0.0, 512.0, 4096.0], 0.0, 100.0, 8);
        assert_eq!(axis.ticks, [0.0, 512.0, 1024.0, 2048.0, 4096.0]);
        let step = axis.at(1024.0) - axis.at(512.0);
        assert!((axis.at(512.0) - axis.at(0.0) - step).abs() < 1e-9);
    }

    #[test]
    fn wide_ranges_get_decimals() {
        let axis = Axis::around(Scale::Log10, &[0.8, 90.0], 0.0, 100.0, 7);
        assert_eq!(axis.ticks, [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
    }

    #[test]
    fn labels_have_no_trailing_zeros() {
        assert_eq!([label(0.5), label(20.0), label(2000.0), label(0.25)], ["0.5", "20", "2,000", "0.25"]);
    }
}
