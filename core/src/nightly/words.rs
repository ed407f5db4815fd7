//! What is said to people: a sentence for each verdict, with the numbers it rests on.

use super::{Confirmation, Direction, Evidence, Finding, MachineEvent, Unjudged, Verdict};
use crate::fingerprint::Difference;

impl Verdict {
    /// What is said, in a sentence without its subject.
    pub fn sentence(&self) -> String {
        let evidence = self.evidence.as_ref();
        match &self.finding {
            Finding::Unjudged { why: Unjudged::NotMeasured } => "was not measured".to_owned(),
            Finding::Unjudged { why: Unjudged::Suspect } => {
                "was measured in doubtful surroundings: no verdict".to_owned()
            }
            Finding::Unjudged { why: Unjudged::Excluded } => "the night was excluded: no verdict".to_owned(),
            Finding::Began { because } => format!("a new series begins: {}", differences(because)),
            Finding::Learning { nights, of } => format!("learning: {nights} of {of} nights that a verdict takes"),
            Finding::Steady => evidence.map_or_else(|| "as usual".to_owned(), steady),
            Finding::Flagged { direction } => {
                format!("{}: to be measured again", evidence.map_or_else(String::new, |e| screened(e, *direction)))
            }
            Finding::Suspected { direction } => {
                let again = evidence.and_then(|e| e.confirmation.as_ref());
                let again = again.map_or_else(String::new, |again| measured(again, *direction));
                let turns = evidence.and_then(|e| e.in_turns.as_ref()).map_or_else(String::new, in_turns);
                format!("{again}, measured again the same night{turns}: the next night decides")
            }
            Finding::Confirmed { direction, since } => {
                let said = evidence.map_or_else(String::new, |evidence| confirmed(evidence, *direction));
                format!("{said}, since {since}")
            }
            Finding::WithMachine { direction, since, moved: true } => {
                let by = evidence.map_or_else(String::new, |e| by(e.change, *direction));
                format!("{by} together with its machine, since {since}")
            }
            Finding::WithMachine { since, moved: false, .. } => {
                format!("its machine changed, so a new level begins with {since}")
            }
        }
    }
}

impl MachineEvent {
    /// What is said, in a sentence without its subject.
    pub fn sentence(&self) -> String {
        let Self { cells, of, direction, .. } = self;
        let what = format!("{cells} of {of} cells {}, which is the middle of them", by(self.change, *direction));
        match &self.since {
            Some(since) => format!("{what}, since {since}: the machine, or what all cells share"),
            None => format!("{what}: the next night decides"),
        }
    }
}

fn steady(evidence: &Evidence) -> String {
    let usual = format!("{:+.1} % against {} nights", 100.0 * evidence.change, evidence.nights);
    match &evidence.confirmation {
        Some(again) => {
            let change = 100.0 * (again.ratio - 1.0);
            let turns = evidence.in_turns.as_ref().map_or_else(String::new, in_turns);
            format!("{usual}; not confirmed: {change:+.1} % in {} worker processes{turns}", again.processes)
        }
        None => format!("{usual}, where up to {:.1} % is usual", 100.0 * evidence.least),
    }
}

/// Where turns with the last good build showed nothing, and other nights decide.
fn in_turns(turns: &Confirmation) -> String {
    format!(", {:+.1} % in turns with the last good build", 100.0 * (turns.ratio - 1.0))
}

fn screened(evidence: &Evidence, direction: Direction) -> String {
    let Evidence { change, nights, z, noise, .. } = evidence;
    let noise = 100.0 * noise;
    format!("{} than the middle of {nights} nights, {:.1} times their {noise:.1} %", by(*change, direction), z.abs())
}

fn measured(again: &Confirmation, direction: Direction) -> String {
    let Confirmation { base, processes, interval, .. } = again;
    let percent = |ratio: f64| 100.0 * (ratio - 1.0);
    let size = by(again.ratio - 1.0, direction);
    let (low, high) = (percent(interval.low), percent(interval.high));
    let how = if again.paired {
        format!("{processes} worker processes in turns with the last good build")
    } else {
        format!("{processes} worker processes against {base}")
    };
    format!("{size} ({low:+.1} to {high:+.1} %; {how})")
}

fn confirmed(evidence: &Evidence, direction: Direction) -> String {
    let said = evidence.confirmation.as_ref().map(|again| measured(again, direction));
    said.unwrap_or_else(|| by(evidence.change, direction))
}

/// `slower by 3.1 %`: of rates and times alike the share by which the value changed.
fn by(change: f64, direction: Direction) -> String {
    format!("{} by {:.1} %", direction.as_str(), 100.0 * change.abs())
}

fn differences(all: &[Difference]) -> String {
    let said = |value: &Option<String>| value.clone().unwrap_or_else(|| "not known".to_owned());
    let each = all.iter().map(|d| format!("{} {} → {}", d.part, said(&d.a), said(&d.b)));
    each.collect::<Vec<String>>().join(", ")
}
