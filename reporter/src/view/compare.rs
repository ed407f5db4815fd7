//! Engine against engine: the same model, precision, device and workload, as ratios of medians.

use regatta_core::artifact::Precision;
use regatta_core::backend::BackendKind;
use serde::Serialize;

use super::Value;
use super::subject::{Measured, Subject};
use crate::stats::{Summary, geometric_mean};
use crate::text;

/// Ratios closer to one than this are called equal.
const EQUAL_WITHIN: f64 = 0.02;

/// Two backends at one precision.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The subject, where the run has several.
    pub subject: Option<String>,
    /// Precision of the weights.
    pub precision: &'static str,
    /// The backend in the denominator.
    pub base: &'static str,
    /// The backend in the numerator.
    pub other: &'static str,
    /// Decode rate of `other` in relation to `base`.
    pub decode: Option<Ratio>,
    /// Prefill rate of `other` in relation to `base`.
    pub prefill: Option<Ratio>,
    /// The workloads one by one.
    pub pairs: Vec<Pair>,
    /// What it comes to, as a sentence.
    pub sentence: String,
    /// Whether they gave the same tokens, in a sentence or two. Empty where nothing was generated.
    pub tokens: String,
}

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Headline {
    /// What it is about.
    pub lead: String,
    /// The finding, as a sentence.
    pub text: String,
}

/// Ratios over several workloads.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// Geometric mean.
    pub mean: f64,
    /// The smallest.
    pub low: f64,
    /// The largest.
    pub high: f64,
    /// Workloads behind it.
    pub n: usize,
}

/// Two backends at one precision and one workload: medians, and `other` in relation to `base`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pair {
    /// The workload.
    pub workload: String,
    /// Decode rates in tokens/s: `base → other`.
    pub decode: Value,
    /// Their ratio.
    pub decode_ratio: Value,
    /// Prefill rates in tokens/s: `base → other`.
    pub prefill: Value,
    /// Their ratio.
    pub prefill_ratio: Value,
    /// Times to first token in milliseconds: `base → other`.
    pub ttft: Value,
    /// Leading generated tokens that are the same on both, of how many, and the first one that is not.
    pub same_tokens: Value,
}

/// All comparisons of a subject; `name_subject` puts the subject into them.
pub(super) fn comparisons(subject: &Subject<'_>, name_subject: bool) -> Vec<Comparison> {
    let backends = subject.backends();
    let mut found = Vec::new();
    for precision in subject.precisions() {
        for (i, base) in backends.iter().enumerate() {
            for other in &backends[i + 1..] {
                found.extend(comparison(subject, name_subject, precision, *base, *other));
            }
        }
    }
    found
}

fn comparison(
    subject: &Subject<'_>,
    name_subject: bool,
    precision: Precision,
    base: BackendKind,
    other: BackendKind,
) -> Option<Comparison> {
    let cell = |backend, workload| subject.at(backend, precision, workload).filter(|m| m.is_ok);
    let cells: Vec<_> =
        subject.workloads().into_iter().filter_map(|w| Some((cell(base, w)?, cell(other, w)?))).collect();
    if cells.is_empty() {
        return None;
    }
    let (alike, unlike): (Vec<_>, Vec<_>) = cells.into_iter().partition(|(base, other)| same_prompt(base, other));
    let tokens = tokens(base, other, &alike);
    let pairs: Vec<Pair> = alike.into_iter().map(|(base, other)| pair(base, other)).collect();
    let decode = ratio(pairs.iter().filter_map(|p| p.decode_ratio.sort));
    let prefill = ratio(pairs.iter().filter_map(|p| p.prefill_ratio.sort));
    let subject = name_subject.then(|| subject.short_label());
    let (precision, base, other) = (precision.as_str(), base.as_str(), other.as_str());
    let unlike = unlike.into_iter().map(|(base, _)| base.workload().name.as_str());
    let sentence = [sentence(base, other, decode, prefill), not_compared(&unlike.collect::<Vec<_>>())];
    let sentence = sentence.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
    Some(Comparison { subject, precision, base, other, decode, prefill, pairs, sentence, tokens })
}

fn pair(base: &Measured<'_>, other: &Measured<'_>) -> Pair {
    let medians = |of: fn(&Measured<'_>) -> Option<Summary>| [base, other].map(|m| of(m).map(|s| s.median));
    let decode = medians(|m| m.stats.decode_rate);
    let prefill = medians(|m| m.stats.prefill_rate);
    Pair {
        workload: base.workload().name.to_string(),
        decode: change(decode),
        decode_ratio: factor(quotient(decode)),
        prefill: change(prefill),
        prefill_ratio: factor(quotient(prefill)),
        ttft: change(medians(|m| m.stats.ttft_ms)),
        same_tokens: same_tokens(base, other),
    }
}

fn change([base, other]: [Option<f64>; 2]) -> Value {
    Value::new(format!("{} → {}", text::optional(base), text::optional(other)), other)
}

fn factor(ratio: Option<f64>) -> Value {
    Value::new(ratio.map_or_else(|| text::MISSING.to_owned(), text::factor), ratio)
}

fn quotient([base, other]: [Option<f64>; 2]) -> Option<f64> {
    match (base, other) {
        (Some(base), Some(other)) if base > 0.0 => Some(other / base),
        _ => None,
    }
}

/// Whether both engines were given the same token ids. A text becomes ids by the tokenizer that comes with the weights,
/// and two files of one model need not carry the same one.
fn same_prompt(base: &Measured<'_>, other: &Measured<'_>) -> bool {
    let [a, b] = [base, other].map(|m| m.result.samples.first().map(|sample| sample.prompt_digest));
    a == b
}

fn not_compared(workloads: &[&str]) -> String {
    let which = match workloads {
        [] => return String::new(),
        [one] => format!("workload {one}, whose prompt became"),
        several => format!("workloads {}, whose prompts became", several.join(", ")),
    };
    format!("Not compared: {which} other token ids on the two.")
}

/// How many leading tokens of the first repetition agree, in each sequence.
fn same_tokens(base: &Measured<'_>, other: &Measured<'_>) -> Value {
    let Some(agreement) = base.result.agreement_with(other.result) else { return Value::missing() };
    let note = agreement.first_differing().map(|token| format!("first differing: {token}"));
    let shown = Value::new(format!("{} of {}", agreement.same, agreement.of), Some(agreement.same as f64));
    Value { note: note.unwrap_or_default(), ..shown }
}

/// Whether two backends gave the same tokens. That they part is information and no defect: they add up in another order.
fn tokens(base: BackendKind, other: BackendKind, pairs: &[(&Measured<'_>, &Measured<'_>)]) -> String {
    let mut all = Vec::new();
    for (base, other) in pairs {
        let agreement = base.result.agreement_with(other.result);
        all.extend(agreement.map(|agreement| (base.workload().name.as_str(), agreement)));
    }
    if all.is_empty() {
        return String::new();
    }
    let parted: Vec<_> = all.iter().filter(|(_, agreement)| !agreement.is_full()).collect();
    let whole = text::count(all.len(), "workload");
    let same = format!("{base} and {other} gave the same tokens in {} of {whole}", all.len() - parted.len());
    let where_they_part: Vec<_> =
        parted.iter().map(|(workload, agreement)| format!("{workload}, {agreement}")).collect();
    match where_they_part.as_slice() {
        [] => format!("{same}."),
        parted => format!("{same}; they part in {}.", parted.join("; ")),
    }
}

fn ratio(ratios: impl Iterator<Item = f64>) -> Option<Ratio> {
    let ratios: Vec<f64> = ratios.collect();
    let mean = geometric_mean(&ratios)?;
    let low = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let high = ratios.iter().copied().fold(0.0, f64::max);
    Some(Ratio { mean, low, high, n: ratios.len() })
}

/// `llama.cpp decodes 1.83× as fast as candle and processes prompts 2.40× as fast.`
fn sentence(base: &str, other: &str, decode: Option<Ratio>, prefill: Option<Ratio>) -> String {
    let decode = decode.map(|ratio| Clause::new("decodes", ratio, base, other));
    let prefill = prefill.map(|ratio| Clause::new("processes prompts", ratio, base, other));
    match (decode, prefill) {
        (Some(a), Some(b)) if a.subject == b.subject => format!("{} and {}.", a.full(), b.short()),
        (Some(a), Some(b)) => format!("{}; {}.", a.full(), b.full()),
        (Some(one), None) | (None, Some(one)) => format!("{}.", one.full()),
        (None, None) => String::new(),
    }
}

/// One statement: the faster backend first, whichever it is.
struct Clause<'a> {
    subject: &'a str,
    object: &'a str,
    /// Verb and factor: `decodes 1.83× as fast`.
    predicate: String,
    range: String,
}

impl<'a> Clause<'a> {
    fn new(verb: &str, ratio: Ratio, base: &'a str, other: &'a str) -> Self {
        let Ratio { mean, low, high, n } = ratio;
        let equal = (mean - 1.0).abs() < EQUAL_WITHIN;
        let (subject, object, mean, low, high) = if mean < 1.0 && !equal {
            (base, other, 1.0 / mean, 1.0 / high, 1.0 / low)
        } else {
            (other, base, mean, low, high)
        };
        let factor = if equal { "about".to_owned() } else { text::factor(mean) };
        Self { subject, object, predicate: format!("{verb} {factor} as fast"), range: range(low, high, n) }
    }

    fn full(&self) -> String {
        format!("{} {} as {}{}", self.subject, self.predicate, self.object, self.range)
    }

    fn short(&self) -> String {
        format!("{}{}", self.predicate, self.range)
    }
}

fn range(low: f64, high: f64, n: usize) -> String {
    let (low, high) = (text::factor(low), text::factor(high));
    if n < 2 || low == high { String::new() } else { format!(" ({low} to {high})") }
}

/// The main findings: each comparison, then the fastest cell of each subject.
pub(super) fn headlines(subjects: &[Subject<'_>], comparisons: &[Comparison]) -> Vec<Headline> {
    let sentences = comparisons.iter().map(|c| Headline {
        lead: c.subject.as_ref().map_or_else(|| c.precision.to_owned(), |s| format!("{s}, {}", c.precision)),
        text: c.sentence.clone(),
    });
    sentences.chain(subjects.iter().filter_map(|s| fastest(s, subjects.len() > 1))).collect()
}

fn fastest(subject: &Subject<'_>, name_subject: bool) -> Option<Headline> {
    let rates = subject.cells.iter().filter(|m| m.is_ok);
    let rates = rates.filter_map(|m| Some((m, m.stats.decode_rate?.median)));
    let (best, rate) = rates.max_by(|a, b| a.1.total_cmp(&b.1))?;
    let lead =
        if name_subject { format!("{}, fastest decode", subject.short_label()) } else { "Fastest decode".to_owned() };
    let size = best.size();
    Some(Headline { lead, text: format!("{} tokens/s: {} ({size}).", text::number(rate), best.label()) })
}
