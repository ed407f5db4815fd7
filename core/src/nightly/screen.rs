//! The first look at a series: tonight against its level, and the level's change points.

use std::ops::Range;

use super::segments::{levels, segments};
use super::{
    ChangePoint, Confirmation, Direction, Evidence, Finding, Night, Rules, Said, Series, Standing, Unjudged, Verdict,
};
use crate::ranks;
use crate::statistics::{self, change_points};

/// The median absolute deviation of a normal distribution times this is its standard deviation.
const MAD_TO_SD: f64 = 1.482_6;

/// So many times what is usual from night to night a change has to be, to count.
const NOISE_FACTOR: f64 = 3.0;

/// The variance of the median of n values of a normal distribution is about this over n.
const OF_MEDIAN: f64 = std::f64::consts::FRAC_PI_2;

/// Something that was found and is to be confirmed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Open {
    /// Which way.
    pub(super) direction: Direction,
    /// The first night of the new level.
    pub(super) since: usize,
    /// The nights to hold it against, oldest first.
    pub(super) base: Vec<usize>,
    /// Whether tonight's own values have had no part in finding it, and so may speak.
    pub(super) tonight_speaks: bool,
    /// Whether the screen flags tonight.
    pub(super) flagged: bool,
    /// It has to be as large as this to count.
    pub(super) least: f64,
}

/// Looks at a series. What is left open is still to be confirmed; until then the verdict's finding says that nothing is wrong.
pub(super) fn look(series: &Series, rules: &Rules) -> (Verdict, Option<Open>) {
    let settled = |finding| (Verdict { finding, evidence: None }, None);
    let nights = &series.nights;
    let Some((tonight, value)) = nights.last().and_then(|night| Some((nights.len() - 1, night.value()?))) else {
        return settled(Finding::Unjudged { why: Unjudged::NotMeasured });
    };
    match nights[tonight].standing {
        Standing::Valid => {}
        Standing::Suspect => return settled(Finding::Unjudged { why: Unjudged::Suspect }),
        Standing::Excluded => return settled(Finding::Unjudged { why: Unjudged::Excluded }),
    }
    let Some(segment) = segments(nights).pop() else { return settled(Finding::Steady) };
    if segment.nights.len() == 1 && !segment.because.is_empty() {
        return settled(Finding::Began { because: segment.because });
    }
    let levels = levels(nights, &segment.nights);
    let logs = Logs::of(nights);
    let pending = pending(nights, &logs, &levels);
    let before = pending.as_ref().map_or(tonight, |(_, since)| *since);
    let usual = match Usual::of(&logs, &levels, before, rules) {
        Ok(usual) => usual,
        Err(learning) => return settled(learning),
    };
    judge(series, &logs, value.ln(), &levels, &usual, pending, rules)
}

/// The value of each night that counts, as a logarithm.
struct Logs(Vec<Option<f64>>);

impl Logs {
    fn of(nights: &[Night]) -> Self {
        let log = |night: &Night| night.value().filter(|_| night.counts()).map(f64::ln);
        Self(nights.iter().map(log).collect())
    }

    /// The nights of a range that count.
    fn counting(&self, range: Range<usize>) -> Vec<usize> {
        range.filter(|&at| self.0[at].is_some()).collect()
    }

    fn at(&self, positions: &[usize]) -> Vec<f64> {
        positions.iter().filter_map(|&at| self.0[at]).collect()
    }

    fn middle(&self, positions: &[usize]) -> f64 {
        ranks::median(&ranks::sorted(self.at(positions))).unwrap_or(f64::NAN)
    }

    /// How far nights are off the middle of their stretch.
    fn deviations(&self, stretch: &[usize]) -> Vec<f64> {
        let middle = self.middle(stretch);
        self.at(stretch).into_iter().map(|log| log - middle).collect()
    }

    /// How far each night of a stretch is off the one before.
    fn differences(&self, stretch: &[usize]) -> Vec<f64> {
        self.at(stretch).windows(2).map(|pair| pair[1] - pair[0]).collect()
    }
}

/// What is usual: the level, and how far nights lie apart. Everything in logarithms.
struct Usual {
    /// Nights of the level that count, oldest first.
    base: Vec<usize>,
    level: f64,
    /// Around the level. A drift is in it.
    noise: f64,
    /// From one night to the next. A drift is not in it, or it would hide itself.
    steps: f64,
}

impl Usual {
    /// From the nights before `end`; learning, where there are too few.
    fn of(logs: &Logs, levels: &[Range<usize>], end: usize, rules: &Rules) -> Result<Self, Finding> {
        let stretches: Vec<Vec<usize>> =
            levels.iter().map(|level| logs.counting(level.start..level.end.min(end))).collect();
        let base = last(stretches.last().map_or(&[][..], Vec::as_slice), rules.window);
        let in_segment: usize = stretches.iter().map(Vec::len).sum();
        if in_segment < rules.learning {
            return Err(Finding::Learning { nights: in_segment, of: rules.learning });
        }
        if base.len() < rules.level {
            return Err(Finding::Learning { nights: base.len(), of: rules.level });
        }
        let spread = |of: fn(&Logs, &[usize]) -> Vec<f64>| {
            let all: Vec<f64> = stretches.iter().flat_map(|stretch| of(logs, stretch)).collect();
            let recent = all[all.len().saturating_sub(rules.window)..].iter().map(|deviation| deviation.abs());
            MAD_TO_SD * ranks::median(&ranks::sorted(recent)).unwrap_or(0.0)
        };
        let noise = spread(Logs::deviations).max(rules.floor);
        // A difference has the noise of two nights.
        let steps = (spread(Logs::differences) / std::f64::consts::SQRT_2).max(rules.floor);
        let level = logs.middle(&base);
        Ok(Self { base, level, noise, steps })
    }

    /// How far a night may be off its level by chance: a young level is not known well.
    fn error(&self) -> f64 {
        self.noise * (1.0 + OF_MEDIAN / self.base.len() as f64).sqrt()
    }
}

fn judge(
    series: &Series,
    logs: &Logs,
    value: f64,
    levels: &[Range<usize>],
    usual: &Usual,
    pending: Option<(Direction, usize)>,
    rules: &Rules,
) -> (Verdict, Option<Open>) {
    let nights = &series.nights;
    let tonight = nights.len() - 1;
    let change = value - usual.level;
    let least = rules.threshold.max(NOISE_FACTOR * usual.noise);
    let z = change / usual.error();
    let flagged = z.abs() > rules.z && change.exp_m1().abs() >= least;
    let towards = |log: f64| Direction::of(log.exp(), series.larger_is_better);
    let of_steps = rules.threshold.max(NOISE_FACTOR * usual.steps);
    // Without tonight, which is to confirm it.
    let before = levels.last().map(|level| level.start..tonight);
    let changed = before.and_then(|level| last_change(logs, &level, of_steps, rules));
    let evidence = Evidence {
        tonight: value.exp(),
        level: usual.level.exp(),
        nights: usual.base.len(),
        change: change.exp_m1(),
        noise: usual.noise.exp_m1(),
        z,
        least,
        change_point: changed.as_ref().map(|(since, change)| ChangePoint {
            since: nights[*since].run.clone(),
            change: (change.after - change.before).exp_m1(),
            p: change.p,
        }),
        confirmation: None,
        in_turns: None,
    };
    let base = || usual.base.clone();
    let open = match (changed, pending) {
        (Some((since, change)), _) => {
            let start = levels.last().map_or(since, |level| level.start);
            let direction = towards(change.after - change.before);
            Some(Open {
                direction,
                since,
                base: logs.counting(start..since),
                tonight_speaks: true,
                flagged,
                least: of_steps,
            })
        }
        (None, Some((direction, since))) if !flagged || direction == towards(change) => {
            Some(Open { direction, since, base: base(), tonight_speaks: true, flagged, least })
        }
        _ if flagged => {
            let direction = towards(change);
            Some(Open { direction, since: tonight, base: base(), tonight_speaks: false, flagged, least })
        }
        _ => None,
    };
    (Verdict { finding: Finding::Steady, evidence: Some(evidence) }, open)
}

impl Open {
    /// What is said where nothing could be tested.
    pub(super) fn untested(&self) -> Finding {
        if self.flagged { Finding::Flagged { direction: self.direction } } else { Finding::Steady }
    }

    /// Whether a test says that there is such a change.
    pub(super) fn is_held(&self, test: &Confirmation, series: &Series, rules: &Rules) -> bool {
        test.holds(self.direction, series.larger_is_better, self.least, rules.q)
    }

    /// What is said after the test that decides.
    pub(super) fn finding(&self, series: &Series, test: &Confirmation, rules: &Rules) -> Finding {
        if !self.is_held(test, series, rules) {
            return Finding::Steady;
        }
        let direction = self.direction;
        if self.tonight_speaks || test.paired {
            Finding::Confirmed { direction, since: series.nights[self.since].run.clone() }
        } else {
            Finding::Suspected { direction }
        }
    }
}

/// A change that was seen in the last nights before tonight that count: which way, and the first of them.
fn pending(nights: &[Night], logs: &Logs, levels: &[Range<usize>]) -> Option<(Direction, usize)> {
    let level = levels.last()?;
    let mut found: Option<(Direction, usize)> = None;
    for &at in logs.counting(level.start..nights.len() - 1).iter().rev() {
        match (&nights[at].said, found) {
            (Said::Pending(direction), None) => found = Some((*direction, at)),
            (Said::Pending(direction), Some((same, _))) if *direction == same => found = Some((same, at)),
            _ => break,
        }
    }
    found
}

/// The last change point of these nights, and its first night.
fn last_change(logs: &Logs, level: &Range<usize>, least: f64, rules: &Rules) -> Option<(usize, statistics::Change)> {
    let counting = last(&logs.counting(level.clone()), rules.reach);
    let values = logs.at(&counting);
    let rules = statistics::Rules { least: least.ln_1p(), ..statistics::Rules::default() };
    change_points(&values, &rules).pop().map(|change| (counting[change.at], change))
}

fn last(positions: &[usize], most: usize) -> Vec<usize> {
    positions[positions.len().saturating_sub(most)..].to_vec()
}
