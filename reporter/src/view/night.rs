//! What was said of a run as a night among others: a sentence and what moved, for the top of the page.

use serde::Serialize;

use crate::dataset::{MovedCell, NightSaid};
use crate::nights::counted;
use crate::text;

/// What moved is listed up to here; the rest is counted.
const LISTED: usize = 20;

/// What is said of a night.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NightView {
    /// How many of what, as a sentence.
    pub summary: String,
    /// Whether something is slower for certain.
    pub is_slower: bool,
    /// Machines, then cells that moved.
    pub lines: Vec<NightLine>,
}

/// Something that moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NightLine {
    /// What.
    pub lead: String,
    /// What is said of it.
    pub text: String,
}

/// Draws it up.
pub(super) fn view(said: &NightSaid) -> NightView {
    let machines = said.machines.iter().map(|(machine, sentence)| NightLine {
        lead: format!("Machine {}:", text::label(machine)),
        text: format!("{}.", text::reason(sentence)),
    });
    let more = said.moved.len().saturating_sub(LISTED);
    let more = (more > 0).then(|| NightLine {
        lead: format!("{} more:", text::count(more, "value")),
        text: "'regatta gate' lists them all.".to_owned(),
    });
    let lines = machines.chain(said.moved.iter().take(LISTED).map(line)).chain(more).collect();
    NightView { summary: summary(said), is_slower: said.counts.contains_key("slower"), lines }
}

fn line(moved: &MovedCell) -> NightLine {
    let answer = moved.answer.as_ref().map(|answer| format!(" A person said {}.", text::reason(answer)));
    NightLine {
        lead: format!(
            "{} ({}), {}:",
            text::label(&moved.cell),
            text::label(&moved.metric),
            text::label(&moved.finding)
        ),
        text: format!("{}.{}", text::reason(&moved.sentence), answer.unwrap_or_default()),
    }
}

fn summary(said: &NightSaid) -> String {
    if let Some(reason) = &said.excluded {
        return format!("A person took this night out: {}.", text::reason(reason));
    }
    let counted = counted(|word| said.counts.get(word).copied());
    let total: usize = said.counts.values().sum();
    format!("Held against the nights before it: {counted}, of {}.", text::count(total, "value"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn said() -> NightSaid {
        let moved = MovedCell {
            cell: "tinyllama · chat <script>".to_owned(),
            metric: "decode".to_owned(),
            finding: "slower".to_owned(),
            sentence: "slower by 5.0 %".to_owned(),
            answer: Some("acknowledged: see issue 812".to_owned()),
        };
        NightSaid {
            counts: BTreeMap::from([("steady".to_owned(), 57), ("slower".to_owned(), 1)]),
            machines: vec![("gpu-01".to_owned(), "4 of 10 cells slower by 2.5 %".to_owned())],
            moved: vec![moved],
            excluded: None,
        }
    }

    #[test]
    fn what_matters_comes_first_and_answers_are_shown() {
        let view = view(&said());
        assert!(view.is_slower);
        assert_eq!(view.summary, "Held against the nights before it: 1 slower and 57 steady, of 58 values.");
        assert_eq!(view.lines[0].lead, "Machine gpu-01:");
        assert!(
            view.lines[1].text.ends_with("5.0 %. A person said acknowledged: see issue 812."),
            "{:?}",
            view.lines[1]
        );
    }

    #[test]
    fn many_are_counted_and_a_night_that_was_taken_out_says_so() {
        let mut many = said();
        many.moved = vec![many.moved[0].clone(); 50];
        let lines = view(&many).lines;
        assert_eq!((lines.len(), lines.last().unwrap().lead.as_str()), (1 + LISTED + 1, "30 values more:"));
        many.excluded = Some("the fans".to_owned());
        assert_eq!(view(&many).summary, "A person took this night out: the fans.");
    }
}
