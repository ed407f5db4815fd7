//! From samples to the values of a night.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Standing;
use crate::metrics::Metrics;
use crate::quality::Quality;
use crate::ranks;
use crate::sample::Sample;

/// What is judged: one metric each for prefill and decode, so that nothing is tested twice. Of both, more is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Generated tokens per second, the first left out.
    Decode,
    /// Prompt tokens per second.
    Prefill,
}

impl Metric {
    /// All that are judged.
    pub const ALL: [Self; 2] = [Self::Decode, Self::Prefill];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Prefill => "prefill",
        }
    }

    /// The metric of that name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.as_str() == text)
    }

    fn of(self, metrics: &Metrics) -> Option<f64> {
        let value = match self {
            Self::Decode => metrics.decode_rate,
            Self::Prefill => metrics.prefill_rate,
        };
        value.filter(|value| value.is_finite() && *value > 0.0)
    }
}

/// The value of each worker process, the median of its repetitions, and whether they may be held against other nights. Number
/// `r` is of process `r / per_pass`. Repetitions in doubtful surroundings count only where most processes have no others: then
/// the night is suspect.
pub fn processes(samples: &[Sample], per_pass: u32, metric: Metric) -> (Vec<f64>, Standing) {
    let counted = |sample: &&Sample| Quality::of(sample.flags).counts();
    let all = medians(samples.iter().filter(counted), per_pass, metric);
    let good = medians(samples.iter().filter(|sample| is_valid(sample)), per_pass, metric);
    let (values, standing) =
        if 2 * good.len() >= all.len() { (good, Standing::Valid) } else { (all, Standing::Suspect) };
    (values.into_values().collect(), standing)
}

/// The values of worker processes of two builds that were measured in turns, in pairs, as far as both were measured in
/// surroundings that are not doubtful.
pub fn pairs(base: &[Sample], candidate: &[Sample], per_pass: u32, metric: Metric) -> Vec<(f64, f64)> {
    let [base, candidate] =
        [base, candidate].map(|samples| medians(samples.iter().filter(|sample| is_valid(sample)), per_pass, metric));
    base.iter().filter_map(|(process, base)| Some((*base, *candidate.get(process)?))).collect()
}

fn is_valid(sample: &Sample) -> bool {
    Quality::of(sample.flags) == Quality::Valid
}

/// The value of each worker process, by its number.
fn medians<'s>(samples: impl Iterator<Item = &'s Sample>, per_pass: u32, metric: Metric) -> BTreeMap<u32, f64> {
    let mut processes = BTreeMap::<u32, Vec<f64>>::new();
    for sample in samples {
        let value = metric.of(&Metrics::of(sample));
        processes.entry(sample.key.repetition / per_pass.max(1)).or_default().extend(value);
    }
    let median = |(process, values)| Some((process, ranks::median(&ranks::sorted(values))?));
    processes.into_iter().filter_map(median).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flag::{Flag, Flags};
    use crate::sample::tests::sample;

    /// 3 processes with 2 repetitions each; the second repetition of each is slower.
    fn samples() -> Vec<Sample> {
        let of = |repetition: u32| {
            let mut sample = sample();
            sample.key.repetition = repetition;
            sample.flags = Flags::empty();
            let stretch = |time: &mut u64| *time *= u64::from(1 + repetition % 2);
            sample.times.tokens.iter_mut().for_each(stretch);
            sample
        };
        (0..6).map(of).collect()
    }

    #[test]
    fn the_value_of_a_process_is_the_median_of_its_repetitions() {
        let (values, standing) = processes(&samples(), 2, Metric::Decode);
        // 75 and 37.5 tokens per second.
        assert_eq!((values, standing), (vec![56.25; 3], Standing::Valid));
        assert_eq!(processes(&[], 2, Metric::Decode), (vec![], Standing::Valid));
    }

    #[test]
    fn pairs_are_of_the_same_pass_and_of_good_surroundings_only() {
        let (base, mut candidate) = (samples(), samples());
        for sample in candidate.iter_mut().filter(|sample| sample.key.repetition >= 4) {
            sample.times.tokens.iter_mut().for_each(|time| *time *= 2);
        }
        assert_eq!(pairs(&base, &candidate, 2, Metric::Decode), [(56.25, 56.25), (56.25, 56.25), (56.25, 28.125)]);
        for sample in candidate.iter_mut().take(2) {
            sample.flags.insert(Flag::BusyHost);
        }
        assert_eq!(pairs(&base, &candidate, 2, Metric::Decode), [(56.25, 56.25), (56.25, 28.125)]);
        assert_eq!(pairs(&base, &[], 2, Metric::Decode), []);
    }

    #[test]
    fn doubtful_repetitions_are_left_out_while_most_processes_have_better_ones() {
        let mut some = samples();
        for sample in some.iter_mut().filter(|sample| sample.key.repetition % 2 == 1) {
            sample.flags.insert(Flag::BusyHost);
        }
        assert_eq!(processes(&some, 2, Metric::Decode), (vec![75.0; 3], Standing::Valid));
        for sample in some.iter_mut().take(4) {
            sample.flags.insert(Flag::BusyHost);
        }
        assert_eq!(processes(&some, 2, Metric::Decode), (vec![56.25; 3], Standing::Suspect));
        for sample in &mut some {
            sample.flags.insert(Flag::ForeignProcess);
        }
        assert_eq!(processes(&some, 2, Metric::Decode), (vec![], Standing::Valid), "invalid ones count nowhere");
    }
}
