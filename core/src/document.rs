//! Reads TOML documents that people write, and collects everything that is wrong with them instead of stopping at the
//! first problem: unknown keys, missing keys, wrong types, values out of range, each with its line.

use std::cell::RefCell;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use jiff::SignedDuration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::id::{is_unprintable, shown};
use crate::scenario::{ScenarioError, ScenarioErrors};

/// The longest text of a scenario or a manifest, in bytes.
pub(crate) const MAX_TEXT: usize = 1 << 20;

/// The longest label (a description, a licence), in characters.
const MAX_LABEL: usize = 128;

/// The most values one list may have.
const MAX_LIST: usize = 100;

/// A value and the line it stands on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) line: u32,
}

/// Collects what is wrong with one file. Sections of the document share it, hence the cell.
pub(crate) struct Report<'d> {
    file: &'d str,
    text: &'d str,
    line_starts: Vec<usize>,
    errors: RefCell<Vec<ScenarioError>>,
}

impl<'d> Report<'d> {
    pub(crate) fn new(file: &'d str, text: &'d str) -> Self {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1)).collect();
        Self { file, text, line_starts, errors: RefCell::default() }
    }

    /// Adds a problem whose rule says it all.
    pub(crate) fn rule(&self, line: Option<u32>, key: &str, rule: String, fix: Option<String>) {
        self.push(line, key, None, rule, fix);
    }

    /// Adds a problem of a value.
    pub(crate) fn value(&self, line: u32, key: &str, value: &dyn Display, rule: String, fix: Option<String>) {
        self.push(Some(line), key, Some(value.to_string()), rule, fix);
    }

    fn push(&self, line: Option<u32>, key: &str, value: Option<String>, rule: String, fix: Option<String>) {
        let (file, key) = (shown(self.file), key.to_owned());
        self.errors.borrow_mut().push(ScenarioError { file, line, key, value, rule, fix });
    }

    /// Adds the problems of another file.
    pub(crate) fn append(&self, errors: ScenarioErrors) {
        self.errors.borrow_mut().extend(errors.0);
    }

    /// All problems: those of this file by line, then those of others.
    pub(crate) fn into_errors(self) -> ScenarioErrors {
        let file = shown(self.file);
        let mut errors = self.errors.into_inner();
        errors.sort_by_key(|e| (e.file != file, e.line));
        ScenarioErrors(errors)
    }

    /// `value`, if nothing was wrong with the file.
    pub(crate) fn finish<T>(self, value: Option<T>) -> Result<T, ScenarioErrors> {
        match value {
            Some(value) if self.errors.borrow().is_empty() => Ok(value),
            _ => Err(self.into_errors()),
        }
    }

    /// The document's tree; `None` if it is no TOML document, with the reasons added. What a broken document means is
    /// a guess, so nothing else is checked then.
    pub(crate) fn parse(&self) -> Option<Spanned<DeTable<'d>>> {
        if let Err(rule) = check_text(self.text) {
            self.rule(None, "", rule, None);
            return None;
        }
        let (tree, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            let line = error.span().map(|span| self.line(span.start));
            self.rule(line, "", error.message().to_owned(), None);
        }
        errors.is_empty().then_some(tree)
    }

    /// The line, from 1, on which the byte at `offset` stands.
    fn line(&self, offset: usize) -> u32 {
        u32::try_from(self.line_starts.partition_point(|&start| start <= offset)).unwrap_or(u32::MAX)
    }

    /// The value as it stands in the file.
    fn source(&self, value: &Spanned<DeValue<'_>>) -> String {
        let source = self.text.get(value.span()).unwrap_or_default();
        shown(&source.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

/// A whole number; one that no integer holds is the largest.
fn whole(value: &DeValue<'_>) -> Option<i128> {
    value.as_integer().map(|int| i128::from_str_radix(int.as_str(), int.radix()).unwrap_or(i128::MAX))
}

/// Bytes of a text such as `16 GiB`.
fn parse_size(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 6] = [
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
    ];
    let text = text.trim();
    let (number, unit) = UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?.trim_end(), *unit)))?;
    number.parse::<u64>().ok()?.checked_mul(unit).filter(|&bytes| bytes > 0)
}

/// Refuses texts that no person wrote as a scenario or a manifest.
pub(crate) fn check_text(text: &str) -> Result<(), String> {
    if text.len() > MAX_TEXT {
        return Err(format!("has {} bytes: at most {} are read", grouped(text.len() as u64), grouped(MAX_TEXT as u64)));
    }
    if text.contains('\0') {
        return Err("has a NUL byte: this is not a text file".to_owned());
    }
    Ok(())
}

/// One table of a document, with the keys it may have.
pub(crate) struct Section<'r, 't, 'd> {
    report: &'r Report<'d>,
    table: &'t DeTable<'d>,
    path: String,
    line: u32,
    /// Keys that an unknown key was probably meant to be; they are not reported as missing too.
    misspelt: Vec<&'static str>,
}

impl<'r, 't, 'd> Section<'r, 't, 'd> {
    /// The document itself.
    pub(crate) fn root(report: &'r Report<'d>, tree: &'t Spanned<DeTable<'d>>, keys: &[&'static str]) -> Self {
        Self::new(report, tree.get_ref(), String::new(), 1).with_keys(keys)
    }

    /// A table that starts on `line`. `path` names it and ends in a dot, unless it is empty.
    fn new(report: &'r Report<'d>, table: &'t DeTable<'d>, path: String, line: u32) -> Self {
        Self { report, table, path, line, misspelt: Vec::new() }
    }

    /// Reports every key that is not one of `keys`.
    pub(crate) fn with_keys(mut self, keys: &[&'static str]) -> Self {
        self.report_unknown(keys);
        self
    }

    fn report_unknown(&mut self, keys: &[&'static str]) {
        for key in self.table.keys().filter(|key| !keys.contains(&key.get_ref().as_ref())) {
            let meant = closest(key.get_ref(), keys.iter().copied());
            let rule = format!("unknown key '{}' (allowed: {})", shown(key.get_ref()), keys.join(", "));
            let path = self.key(&shown(key.get_ref()));
            self.report.rule(Some(self.report.line(key.span().start)), &path, rule, meant.map(did_you_mean));
            self.misspelt.extend(meant);
        }
    }

    /// The line the table starts on.
    pub(crate) fn line(&self) -> u32 {
        self.line
    }

    /// The key with the tables around it.
    pub(crate) fn key(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    /// Whether the key is there, well-formed or not.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Every key of the table and its line, in the order of the file.
    pub(crate) fn keys(&self) -> Vec<At<&'t str>> {
        let mut keys: Vec<_> = self.table.keys().collect();
        keys.sort_by_key(|key| key.span().start);
        keys.into_iter().map(|k| At { value: k.get_ref().as_ref(), line: self.report.line(k.span().start) }).collect()
    }

    /// Whether the key was left out, and not merely misspelt. Left-out keys are reported.
    pub(crate) fn require(&self, key: &'static str, example: &str) -> bool {
        let missing = !self.has(key) && !self.misspelt.contains(&key);
        if missing {
            let key = self.key(key);
            let rule = format!("missing key '{key}'");
            self.report.rule(Some(self.line), &key, rule, Some(format!("add {example}")));
        }
        !missing
    }

    fn get<T>(&self, key: &str, kind: &str, read: impl FnOnce(&'t DeValue<'d>) -> Option<T>) -> Option<At<T>> {
        let spanned = self.table.get(key)?;
        self.convert(key, spanned, kind, read)
    }

    /// Reads `spanned` as a `kind`, or reports that it is none.
    fn convert<T>(
        &self,
        key: &str,
        spanned: &'t Spanned<DeValue<'d>>,
        kind: &str,
        read: impl FnOnce(&'t DeValue<'d>) -> Option<T>,
    ) -> Option<At<T>> {
        let line = self.report.line(spanned.span().start);
        let value = read(spanned.get_ref());
        if value.is_none() {
            let rule = format!("must be {kind}, is {}", kind_of(spanned.get_ref()));
            self.report.value(line, &self.key(key), &self.report.source(spanned), rule, None);
        }
        value.map(|value| At { value, line })
    }

    /// Whether the key has a text.
    pub(crate) fn has_text(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|value| value.get_ref().is_str())
    }

    /// Whether the key has a table.
    pub(crate) fn has_table(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|value| value.get_ref().is_table())
    }

    /// A text.
    pub(crate) fn text(&self, key: &str) -> Option<At<&'t str>> {
        self.get(key, "a text", DeValue::as_str)
    }

    /// A text for people: short, and without characters that change how the text around it is shown.
    pub(crate) fn label(&self, key: &str) -> Option<At<String>> {
        let At { value, line } = self.text(key)?;
        let length = value.chars().count();
        if length > MAX_LABEL {
            let rule = format!("must have at most {MAX_LABEL} characters, has {}", grouped(length as u64));
            self.report.value(line, &self.key(key), &quoted(value), rule, None);
        } else if value.chars().any(is_unprintable) {
            let rule = "must have no control characters and no marks that reverse the direction of text".to_owned();
            self.report.value(line, &self.key(key), &quoted(value), rule, None);
        }
        Some(At { value: value.to_owned(), line })
    }

    /// A list of texts, not empty, without duplicates.
    pub(crate) fn texts(&self, key: &str) -> Option<Vec<At<&'t str>>> {
        let At { value: list, line } = self.get(key, "a list of texts", DeValue::as_array)?;
        if list.is_empty() || list.len() > MAX_LIST {
            let rule = format!("must have 1 to {MAX_LIST} values, has {}", grouped(list.len() as u64));
            self.report.rule(Some(line), &self.key(key), format!("{} {rule}", self.key(key)), None);
            return None;
        }
        let texts: Vec<_> = list.iter().filter_map(|v| self.convert(key, v, "a text", DeValue::as_str)).collect();
        for (i, text) in texts.iter().enumerate() {
            if let Some(first) = texts[..i].iter().find(|earlier| earlier.value == text.value) {
                let rule = format!("named twice, first on line {}", first.line);
                self.report.value(text.line, &self.key(key), &quoted(text.value), rule, Some("remove one".to_owned()));
            }
        }
        Some(texts)
    }

    /// A whole number within `range`.
    pub(crate) fn int(&self, key: &str, range: RangeInclusive<u64>) -> Option<At<u64>> {
        let spanned = self.table.get(key)?;
        let At { value, line } = self.convert(key, spanned, "a whole number", whole)?;
        let number = u64::try_from(value).ok().filter(|n| range.contains(n));
        if number.is_none() {
            let rule = format!("must be {} to {}", grouped(*range.start()), grouped(*range.end()));
            self.report.value(line, &self.key(key), &self.report.source(spanned), rule, None);
        }
        number.map(|value| At { value, line })
    }

    /// A whole number within `range`.
    pub(crate) fn int32(&self, key: &str, range: RangeInclusive<u32>) -> Option<At<u32>> {
        let At { value, line } = self.int(key, u64::from(*range.start())..=u64::from(*range.end()))?;
        u32::try_from(value).ok().map(|value| At { value, line })
    }

    /// A number above `above`, at most `most`. Whole numbers are numbers too.
    pub(crate) fn number(&self, key: &str, above: f64, most: f64) -> Option<f64> {
        let spanned = self.table.get(key)?;
        let At { value, line } = self.convert(key, spanned, "a number", |v| match v {
            DeValue::Float(float) => float.as_str().parse::<f64>().ok(),
            DeValue::Integer(int) => i64::from_str_radix(int.as_str(), int.radix()).ok().map(|n| n as f64),
            _ => None,
        })?;
        let within = value > above && value <= most;
        if !within {
            let rule = format!("must be above {above} and at most {most}");
            self.report.value(line, &self.key(key), &self.report.source(spanned), rule, None);
        }
        within.then_some(value)
    }

    /// Yes or no.
    pub(crate) fn boolean(&self, key: &str) -> Option<bool> {
        self.get(key, "true or false", DeValue::as_bool).map(|at| at.value)
    }

    /// A duration within `range`, written like `90s`.
    pub(crate) fn duration(&self, key: &str, range: RangeInclusive<Duration>) -> Option<At<Duration>> {
        let At { value: text, line } = self.get(key, "a duration such as \"90s\"", DeValue::as_str)?;
        let duration = text.parse::<SignedDuration>().ok().map(Duration::try_from);
        let rule = match duration {
            Some(Ok(duration)) if range.contains(&duration) => return Some(At { value: duration, line }),
            Some(_) => format!("must be {} to {}", human(*range.start()), human(*range.end())),
            None => "is not a duration".to_owned(),
        };
        let fix = Some("write \"500ms\", \"90s\", \"10m\" or \"2h\"".to_owned()).filter(|_| duration.is_none());
        self.report.value(line, &self.key(key), &quoted(text), rule, fix);
        None
    }

    /// A whole number within `range`, or a list of such numbers, not empty, without duplicates.
    pub(crate) fn numbers(&self, key: &str, range: RangeInclusive<u32>) -> Option<At<Vec<u32>>> {
        let spanned = self.table.get(key)?;
        let Some(list) = spanned.get_ref().as_array() else {
            let At { value, line } = self.int32(key, range)?;
            return Some(At { value: vec![value], line });
        };
        let line = self.report.line(spanned.span().start);
        if list.is_empty() || list.len() > MAX_LIST {
            let rule = format!("{} must have 1 to {MAX_LIST} values, has {}", self.key(key), list.len());
            self.report.rule(Some(line), &self.key(key), rule, None);
            return None;
        }
        let mut numbers = Vec::with_capacity(list.len());
        for item in list {
            let At { value, line } = self.convert(key, item, "a whole number or a list of them", whole)?;
            let number = u32::try_from(value).ok().filter(|number| range.contains(number));
            let rule = match number {
                Some(number) if numbers.contains(&number) => "named twice".to_owned(),
                Some(number) => {
                    numbers.push(number);
                    continue;
                }
                None => format!("must be {} to {}", range.start(), grouped(u64::from(*range.end()))),
            };
            self.report.value(line, &self.key(key), &self.report.source(item), rule, None);
        }
        Some(At { value: numbers, line })
    }

    /// An amount of memory in bytes, written like `16 GiB`.
    pub(crate) fn size(&self, key: &str) -> Option<At<u64>> {
        let At { value: text, line } = self.get(key, "a size such as \"16 GiB\"", DeValue::as_str)?;
        let bytes = parse_size(text);
        if bytes.is_none() {
            let fix = Some("write \"512 MiB\" or \"16 GiB\"".to_owned());
            self.report.value(line, &self.key(key), &quoted(text), "is not a size above 0".to_owned(), fix);
        }
        bytes.map(|value| At { value, line })
    }

    /// A table inside this one, with known keys.
    pub(crate) fn section(&self, key: &str, keys: &[&'static str]) -> Option<Self> {
        self.open_section(key).map(|section| section.with_keys(keys))
    }

    /// A table inside this one, with keys of any name.
    pub(crate) fn open_section(&self, key: &str) -> Option<Self> {
        let At { value: table, line } = self.get(key, &format!("a table, [{}]", self.key(key)), DeValue::as_table)?;
        Some(Self::new(self.report, table, format!("{}.", self.key(key)), line))
    }

    /// The first key that holds a table.
    pub(crate) fn first_table(&self) -> Option<&'t str> {
        let (key, _) = self.table.iter().find(|(_, value)| value.get_ref().is_table())?;
        Some(key.get_ref())
    }

    /// A list of tables inside this one.
    pub(crate) fn sections(&self, key: &str, keys: &[&'static str]) -> Option<Vec<Self>> {
        let kind = format!("a list of tables, [[{}]]", self.key(key));
        let list = self.get(key, &kind, DeValue::as_array)?.value;
        let tables = list.iter().filter_map(|v| self.convert(key, v, &kind, DeValue::as_table));
        let path = format!("{}.", self.key(key));
        Some(tables.map(|at| Self::new(self.report, at.value, path.clone(), at.line).with_keys(keys)).collect())
    }

    /// Checks the key `schema`: the version of the file's format.
    pub(crate) fn schema(&self, version: u32) {
        if !self.require("schema", &format!("schema = {version}")) {
            return;
        }
        let Some(At { value, line }) = self.int("schema", 0..=u64::from(u32::MAX)) else { return };
        if value != u64::from(version) {
            let rule = format!("this program reads version {version}");
            self.report.value(line, "schema", &value, rule, Some(format!("write schema = {version}")));
        }
    }
}

/// What a value is, for people.
fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a decimal point or exponent",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The text as it would be written in the file, cut and made printable.
pub(crate) fn quoted(text: &str) -> String {
    format!("\"{}\"", shown(text))
}

/// The question behind a suggestion.
pub(crate) fn did_you_mean(meant: &str) -> String {
    format!("did you mean '{meant}'?")
}

/// The one of `known` that `text` was probably meant to be.
pub(crate) fn closest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Below this likeness (0 to 1) a suggestion would only confuse.
    const LEAST: f64 = 0.8;
    let text = shown(text).to_lowercase();
    let likeness = |candidate: &str| strsim::jaro_winkler(&text, candidate);
    let best = known.into_iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) >= LEAST).then_some(best)
}

/// A number with its thousands grouped: `12,480`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A duration as people write it: `90s`, `24h`.
pub(crate) fn human(duration: Duration) -> String {
    match duration.as_secs() {
        0 if duration.is_zero() => "0s".to_owned(),
        seconds if seconds > 0 && seconds.is_multiple_of(3600) => format!("{}h", seconds / 3600),
        seconds if seconds > 0 && seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        _ => format!("{duration:?}"),
    }
}
