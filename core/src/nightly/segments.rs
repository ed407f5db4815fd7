//! Where a series breaks: nothing is ever held against nights on the other side.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{Night, Said};
use crate::fingerprint::{Bearing, Difference, Fingerprint};

/// Nights in the same circumstances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Positions of its nights.
    pub nights: Range<usize>,
    /// In what they differ from those of the segment before; empty for the first.
    pub because: Vec<Difference>,
}

/// Cuts a series where a part of the fingerprint changed that bears on results. What is known at one time and not at another
/// has not changed by that.
pub fn segments(nights: &[Night]) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for (at, night) in nights.iter().enumerate() {
        let because = changed(&known, &night.fingerprint);
        match segments.last_mut() {
            Some(last) if because.is_empty() => last.nights.end = at + 1,
            _ => {
                segments.push(Segment { nights: at..at + 1, because });
                known.clear();
            }
        }
        for (part, value) in night.fingerprint.parts() {
            if known.get(part) != Some(value) {
                known.insert(part.clone(), value.clone());
            }
        }
    }
    segments
}

fn changed(known: &BTreeMap<String, String>, tonight: &Fingerprint) -> Vec<Difference> {
    let difference = |(part, b): (&String, &String)| {
        let a = known.get(part).filter(|a| *a != b)?;
        let bearing = Bearing::of(part);
        (bearing != Bearing::Noted).then(|| Difference {
            part: part.clone(),
            a: Some(a.clone()),
            b: Some(b.clone()),
            bearing,
        })
    };
    tonight.parts().iter().filter_map(difference).collect()
}

/// The levels of a segment: stretches between changes that are known.
pub(super) fn levels(nights: &[Night], segment: &Range<usize>) -> Vec<Range<usize>> {
    let mut starts = vec![segment.start];
    for night in &nights[segment.clone()] {
        let Said::Changed { since } = &night.said else { continue };
        let start = segment.clone().find(|&at| nights[at].run == *since);
        starts.extend(start);
    }
    starts.sort_unstable();
    starts.dedup();
    let ends = starts.iter().skip(1).copied().chain([segment.end]);
    starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect()
}
